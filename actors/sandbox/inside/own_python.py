"""Python modules of this folder as programs of their own."""

import os
import sys

from .programs import Program, find
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .inside import Inside

_START = (
    "import sys; folder, name = sys.argv[1:3]; sys.path.insert(0, folder); "
    "main = __import__(name, fromlist=['main']).main; sys.path.remove(folder); main(sys.argv[3:])"
)


def isolated(inside: "Inside", module: str, arguments: "list[str]") -> Program:
    """Runs `main(arguments)` of `module` as the supervisor runs: without anything that was installed."""
    return _program(inside, sys.executable, ["-I", "-S", "-B"], module, arguments)


def among_users(inside: "Inside", module: str, arguments: "list[str]") -> Program:
    """The same with the Python that commands find, which has what users have installed."""
    try:
        path = find("python3", inside.environment, inside.roots["work"])
    except Refused:
        path = sys.executable
    # `-P`: nothing in the current folder hides a module of the standard library while ours are imported.
    return _program(inside, path, ["-P"], module, arguments)


def _program(inside: "Inside", path: str, options: "list[str]", module: str, arguments: "list[str]") -> Program:
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is expensive
    argv = [path, *options, "-c", _START, folder, f"{__package__}.{module}", *arguments]
    return Program(path, argv, inside.environment, inside.roots["work"])
