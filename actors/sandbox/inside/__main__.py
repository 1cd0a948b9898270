"""Starts the supervisor: `python3 -I -S -B <this folder> --listen-fd N | --dial PATH`, and what `supervisor` tells."""

import gc
import os
import sys

START = "start.bin"
"""A file beside this one, made where sandboxes are prepared: names and code of the modules a start needs, in the order
they need each other. To find each of them in the folder costs a sixth of a start. Without the file that is done."""


def _start() -> None:
    gc.disable()  # what is made until the first operation lives as long as the sandbox: nothing is to be collected
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is expensive to import
    folder, name = os.path.split(here)
    # Run as a package: its modules have names that must not hide those of others.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]  # noqa: PTH100 - the same
    sys.path.append(folder)
    _take_prepared(here, name)
    supervisor = __import__(f"{name}.supervisor", fromlist=["main"])
    gc.freeze()
    gc.enable()
    supervisor.main(sys.argv[1:])


def _take_prepared(here: str, package: str) -> None:
    import marshal

    try:
        with open(f"{here}/{START}", "rb", 0) as file:  # noqa: PTH123 - the same
            prepared = marshal.loads(file.read())  # noqa: S302 - made by whoever made this file, and as read-only
    except OSError:
        return
    for own_name, code in prepared:
        module = type(sys)(f"{package}.{own_name}" if own_name else package)
        module.__file__ = code.co_filename
        module.__package__ = package
        sys.modules[module.__name__] = module
        if own_name:
            setattr(sys.modules[package], own_name, module)
        else:
            module.__path__ = [here]
        exec(code, module.__dict__)  # noqa: S102 - as importing it would


if __name__ == "__main__":
    _start()
