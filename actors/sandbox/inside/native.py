"""What Python has no function for: calls into the C library, without the cost of importing `ctypes`."""

import _ctypes

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_M_ARENA_MAX = -8


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - ctypes makes its integers of it; no generic at run time
    _type_ = "i"


class _Function(_ctypes.CFuncPtr):
    _flags_ = 1  # FUNCFLAG_CDECL
    _restype_ = _Int


_library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is what has been loaded already


def _call(name: str, *arguments: int) -> int:
    function = _Function(_ctypes.dlsym(_library, name))
    return int(function(*arguments))


def become_subreaper() -> None:
    """Orphans below this process become its children. Pid 1 is that anyway; harmless there."""
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Nobody of the same user may trace this process or look into it through /proc. Forks inherit it, programs do not."""
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def share_one_heap() -> None:
    """Threads share glibc's first heap: each heap of a thread's own would cost memory. Other C libraries have no such call."""
    try:
        _call("mallopt", _M_ARENA_MAX, 1)
    except OSError:
        return
