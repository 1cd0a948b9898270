"""Starts the supervisor: `python3 -I -S -B <this folder> --listen-fd N | --dial PATH`, and what `supervisor` tells."""

import os
import sys


def _start() -> None:
    folder, name = os.path.split(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is expensive to import
    # Run as a package: its modules have names that must not hide those of others.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.join(folder, name)]  # noqa: PTH100, PTH118 - the same
    sys.path.append(folder)
    __import__(f"{name}.supervisor", fromlist=["main"]).main(sys.argv[1:])


if __name__ == "__main__":
    _start()
