"""Operations on the sandbox itself: claim, ping, usage, freeze and thaw."""

import os
from time import monotonic, sleep

from . import killing, proc
from .asked import text
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .trees import Trees

_TOKEN_LETTERS = 32
_FREEZE_LIMIT_S = 5.0
_PAUSE_S = 0.001
_MOST_FILES = 1_000_000


def claim(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":
    token = text(request, "token")
    if len(token) != _TOKEN_LETTERS or not set(token) <= set("0123456789abcdef"):
        raise Refused("bad_request", f"A token has {_TOKEN_LETTERS} hexadecimal digits.")
    channel.inside.claim(token, channel.connection)
    return {}


def ping(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":  # noqa: ARG001 - every operation has it
    inside = channel.inside
    return {"uptime_s": monotonic() - inside.started_at, "connections": inside.connections}


def usage(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":  # noqa: ARG001 - the same
    """`processes` counts threads too, as limits do, and leaves out the supervisor and its keepers."""
    inside = channel.inside
    keepers = inside.trees.keepers
    others = [process for process in proc.below(os.getpid()) if process.pid not in keepers]
    disk_bytes, inodes = _disk_use(list(inside.roots.values()))
    return {
        "processes": sum(process.threads for process in others),
        "rss_bytes": sum(process.rss_bytes for process in others),
        "disk_bytes": disk_bytes,
        "inodes": inodes,
        "idle_s": inside.idle_s,
    }


def freeze(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":  # noqa: ARG001 - the same
    trees = channel.inside.trees
    trees.is_frozen = True
    deadline = monotonic() + _FREEZE_LIMIT_S
    while not _halt_all(trees):
        if monotonic() > deadline:
            raise Refused("failed", "Processes start faster than they can be stopped.")
        sleep(_PAUSE_S)
    return {}


def thaw(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":  # noqa: ARG001 - the same
    trees = channel.inside.trees
    trees.is_frozen = False
    # Keepers last: what they are told then has happened.
    keepers = trees.keepers
    for process in sorted(proc.below(os.getpid()), key=lambda one: one.pid in keepers):
        killing.send(process.pid, killing.SIGCONT)
    return {}


def _halt_all(trees: "Trees") -> bool:
    """Whether everybody had been stopped already."""
    if os.getpid() == 1:
        # One system call for everybody but us.
        killing.send(-1, killing.SIGSTOP)
    else:
        killing.halt(trees.keepers)
    return proc.are_halted(proc.below(os.getpid()))


def _disk_use(roots: "list[str]") -> "tuple[int, int]":
    """Bytes and inodes. Where folders are a file system of their own it knows; elsewhere they are counted."""
    own = _whole_file_systems()
    devices: set[int] = set()
    size_bytes = inodes = 0
    for root in roots:
        try:
            device = os.stat(root).st_dev  # noqa: PTH116 - pathlib is expensive to import
            if root not in own:
                counted = _count(root)
            elif device in devices:
                continue
            else:
                devices.add(device)
                space = os.statvfs(root)
                counted = ((space.f_blocks - space.f_bfree) * space.f_frsize, space.f_files - space.f_ffree)
        except OSError:
            continue
        size_bytes += counted[0]
        inodes += counted[1]
    return size_bytes, inodes


def _whole_file_systems() -> "set[str]":
    """Mount points that show a file system nobody but the sandbox uses: all of it, or any part of one in memory."""
    found = set()
    for line in (proc.read_bytes("/proc/self/mountinfo") or b"").splitlines():
        fields = line.split()
        kind = fields[fields.index(b"-") + 1]
        if fields[3] == b"/" or kind == b"tmpfs":
            found.add(os.fsdecode(fields[4]))
    return found


def _count(root: str) -> "tuple[int, int]":
    size_bytes = inodes = 0
    pending = [root]
    while pending and inodes < _MOST_FILES:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    size_bytes += status.st_blocks * 512
                    inodes += 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError:
            continue
    return size_bytes, inodes
