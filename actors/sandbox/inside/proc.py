"""Reading /proc: which processes there are, who their parents are, what state they are in."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_BYTES = 1024 * 1024
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Process:
    """What /proc/<pid>/stat says of one process at one moment."""

    __slots__ = ("cpu_s", "parent", "pid", "rss_bytes", "started_ticks", "state", "threads")

    def __init__(self, pid: int, fields: "list[bytes]") -> None:
        self.pid = pid
        self.state = fields[0].decode("ascii")
        self.parent = int(fields[1])
        self.cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        self.threads = int(fields[17])
        self.started_ticks = int(fields[19])
        self.rss_bytes = int(fields[21]) * _PAGE_BYTES

    @property
    def is_halted(self) -> bool:
        """Stopped, traced, dead or about to be: it forks no more until somebody continues it."""
        return self.state in "TtZX"


def read_bytes(path: str) -> "bytes | None":
    """A small file of /proc; None when its process is gone or hides it."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        pieces = []
        size = 0
        while size < _MOST_BYTES and (piece := os.read(fd, 16384)):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)
    except OSError:
        return None
    finally:
        os.close(fd)


def look_at(pid: int) -> "Process | None":
    """None: there is no such process."""
    text = read_bytes(f"/proc/{pid}/stat")
    if not text:
        return None
    # The name stands in parentheses and may hold anything, parentheses too.
    return Process(pid, text[text.rindex(b")") + 2 :].split())


def everybody() -> "Iterator[Process]":
    """All processes this one can see, as they are found."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib is expensive to import
        if name.isdigit() and (process := look_at(int(name))) is not None:
            yield process


def below(root: int) -> "list[Process]":
    """Everybody who descends from `root`, without it."""
    everyone = list(everybody())
    children: dict[int, list[Process]] = {}
    for process in everyone:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    pending = [root]
    while pending:
        mine = children.pop(pending.pop(), [])
        found += mine
        pending += [process.pid for process in mine]
    return found


def are_halted(processes: "list[Process]") -> bool:
    """Whether none of them forks any more, or runs code of its own, until somebody continues it.

    Whoever has called vfork sleeps in the kernel (D) until its child calls exec. When the child was stopped before that,
    the parent sleeps on, and gets to its own stop only afterwards.
    """
    waited_for = {process.parent for process in processes if process.is_halted}
    return all(process.is_halted or (process.state == "D" and process.pid in waited_for) for process in processes)


def children_of(pid: int) -> "list[int]":
    """Of all its threads."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - the same
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        children = read_bytes(f"/proc/{pid}/task/{thread}/children")
        if children is None:
            if os.path.exists(f"/proc/{pid}/task/{thread}/stat"):  # noqa: PTH110 - pathlib is expensive to import
                return [process.pid for process in everybody() if process.parent == pid]
            continue
        found += map(int, children.split())
    return found


def command_of(pid: int) -> "list[str]":
    """Its arguments; what it calls itself in brackets when it shows none."""
    text = read_bytes(f"/proc/{pid}/cmdline")
    if text:
        return os.fsdecode(text.rstrip(b"\0")).split("\0")
    name = read_bytes(f"/proc/{pid}/comm")
    return [] if not name else [f"[{os.fsdecode(name.strip())}]"]
