"""Ending trees of processes whose members fork, leave their session and go on forking while they are being killed."""

import os
from time import monotonic

from . import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SIGKILL, SIGCONT, SIGSTOP = 9, 18, 19
_ROUNDS = 8
_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.02


def send(pid: int, signal: int) -> None:
    """To a process or, negative, to a group; one that is gone has what it needs."""
    try:
        os.kill(pid, signal)
    except OSError:
        return


def halt(roots: "Iterable[int]") -> "list[int]":
    """Stop `roots` and everything below them, and return who that was.

    Each is stopped before its children are read, so what a walk misses was forked by somebody not yet stopped; walks
    are repeated until one finds nobody new and nobody running. That is given up after a few rounds: members can also
    continue each other, and the caller comes back.
    """
    known: set[int] = set()
    for _ in range(_ROUNDS):
        pending = list(roots)
        seen: set[int] = set()
        is_quiet = True
        while pending:
            pid = pending.pop()
            if pid in seen:
                continue
            seen.add(pid)
            process = proc.look_at(pid)
            if process is None:
                continue
            if not process.is_halted:
                send(pid, SIGSTOP)
                is_quiet = False
            pending += proc.children_of(pid)
        is_quiet = is_quiet and seen <= known
        known |= seen
        if is_quiet:
            break
    return list(known)


def end(roots: "Callable[[], list[int]]", is_over: "Callable[[float], bool]", limit_s: float) -> bool:
    """Kill what is below `roots()` until `is_over(wait_s)`. False: it was not within the limit.

    Nobody but the one who asked can tell that nothing is left: a walk through /proc may always miss what forks and
    exits fast enough to be nowhere when it is looked for.
    """
    deadline = monotonic() + limit_s
    pause_s = _PAUSE_S
    while True:
        for pid in halt(roots()):
            send(pid, SIGKILL)
        if is_over(pause_s):
            return True
        if monotonic() > deadline:
            return False
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
