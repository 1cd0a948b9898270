"""Processes of this machine: who is whose, who is still the one we knew, how to end a set of them."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class ProcessMark(BaseModel):
    """A process that can be recognised later: a pid alone is reused, a pid with its start tick is not."""

    model_config = ConfigDict(frozen=True)
    pid: int
    start_ticks: int
    name: str = ""


def boot_id() -> str:
    """Changes with every boot of the machine, after which no mark is valid."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name stands in parentheses and may itself hold spaces and parentheses.
    return stat.rpartition(")")[2].split()


def start_ticks(pid: int) -> int | None:
    """Clock ticks from boot to the start of `pid`; None when it is gone (or only a zombie)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in {"Z", "X"} else int(fields[19])


def all_pids() -> list[int]:
    """Every process this user may see."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def mark(pid: int, name: str = "") -> ProcessMark | None:
    """The mark of a living process."""
    ticks = start_ticks(pid)
    return None if ticks is None else ProcessMark(pid=pid, start_ticks=ticks, name=name)


def is_alive(known: ProcessMark) -> bool:
    """Whether exactly this process still lives."""
    return start_ticks(known.pid) == known.start_ticks


def descendants(pids: Iterable[int]) -> set[int]:
    """Every process below `pids`, without `pids` themselves."""
    below: dict[int, list[int]] = {}
    for pid in all_pids():
        if (fields := _stat(pid)) is not None:
            below.setdefault(int(fields[1]), []).append(pid)
    found: set[int] = set()
    todo = list(pids)
    while todo:
        for child in below.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def carrying(variable: str, value: str) -> set[int]:
    """Processes of this user that were started with `variable=value` in their environment."""
    needle = f"{variable}={value}".encode()
    found = set()
    for pid in all_pids():
        if pid != os.getpid():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if needle in environment.split(b"\0"):
                found.add(pid)
    return found


def rss_bytes(pid: int) -> int:
    """Resident memory; zero when the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def title(pid: int) -> str:
    """The command line, as the process shows it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def end_all(find: Callable[[], set[int]], *, grace_s: float, pause: Callable[[float], None] = time.sleep) -> list[int]:
    """SIGTERM what `find` returns, SIGKILL what is left after `grace_s`; returns pids that survived even that.

    `find` is asked again and again, so a process that was forked meanwhile does not escape.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + grace_s
    last = deadline + 5.0
    while True:
        alive = {pid for pid in find() if start_ticks(pid) is not None}
        if not alive:
            return []
        now = time.monotonic()
        if now > last:
            return sorted(alive)
        for pid in alive:
            try:
                if now > deadline:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in asked:
                    os.kill(pid, signal.SIGTERM)
                    asked.add(pid)
            except (ProcessLookupError, PermissionError):
                continue
        pause(0.05)
