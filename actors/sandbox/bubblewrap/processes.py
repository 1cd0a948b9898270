"""What the processes below one use, read from /proc: for machines where no control group tells."""

import os
from contextlib import suppress
from pathlib import Path

from actors.sandbox.base import Usage

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MOST_PROCESSES = 20_000


def tree_usage(pid: int) -> Usage:
    """Of this process and all below it. Everything in a sandbox is below its first process."""
    memory_bytes, ticks, processes = 0, 0, 0
    waiting = [pid]
    while waiting and processes < _MOST_PROCESSES:
        one = waiting.pop()
        # It may end while it is looked at.
        with suppress(OSError, ValueError, IndexError):
            threads = list(Path(f"/proc/{one}/task").iterdir())
            for thread in threads:
                waiting += (int(child) for child in (thread / "children").read_text().split())
            processes += len(threads)
            memory_bytes += _memory_bytes(one)
            fields = Path(f"/proc/{one}/stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return Usage(memory_bytes, ticks / _TICKS_PER_S, processes)


def _memory_bytes(pid: int) -> int:
    """Without the files it has mapped: those are the host's, and shared."""
    kilobytes = 0
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith(("RssAnon:", "RssShmem:", "VmSwap:")):
            kilobytes += int(line.split()[1])
    return kilobytes * 1024
