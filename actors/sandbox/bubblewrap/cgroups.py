"""Control groups as the backend uses them: finding a place for them, and one group per sandbox."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from actors.sandbox.base import Usage

Controller = Literal["memory", "pids", "cpu", "freezer"]

_FREEZE_TIMEOUT_S, _FREEZE_POLL_S = 2.0, 0.002


@dataclass(frozen=True)
class Quota:
    """What one sandbox may use."""

    memory_bytes: int
    """Of its processes and of its files, which live in memory."""
    processes: int
    cpu: float


class Group(Protocol):
    """One sandbox's group. All methods but `close_joins` may wait for the kernel a little."""

    @property
    def folders(self) -> tuple[Path, ...]: ...

    @property
    def joins(self) -> tuple[int, ...]:
        """Open files; whoever writes `0` to each of them is in."""
        ...

    def close_joins(self) -> None: ...

    def usage(self) -> Usage: ...

    def killed_for_memory(self) -> int:
        """How often the kernel killed one of its processes because the group had no memory left."""
        ...

    def freeze(self) -> bool: ...

    def thaw(self) -> None: ...


class Groups(Protocol):
    """A place where groups can be made."""

    @property
    def controllers(self) -> frozenset[Controller]: ...

    @property
    def memory_gaps(self) -> tuple[str, ...]:
        """What the limit of memory does not hold on this machine, in words."""
        ...

    @property
    def places(self) -> frozenset[Path]:
        """The folders that groups are made in."""
        ...

    def create(self, name: str, quota: Quota) -> Group: ...

    def close(self) -> None:
        """Remove the place itself. All groups in it were removed."""
        ...


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy and where this process is in it."""

    controllers: frozenset[str]
    """Empty for version 2, whose controllers differ from folder to folder."""
    mount_point: Path
    own: Path


def hierarchies(proc: Path = Path("/proc/self")) -> list[Hierarchy]:
    """All that this process can see, version 2 as the one without controllers."""
    places: dict[frozenset[str], str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, listed, path = line.split(":", 2)
        places[frozenset(listed.split(",")) if listed else frozenset()] = path
    found = []
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in {"cgroup", "cgroup2"}:
            continue
        _, _, _, root, mount_point, *_ = before.split(" ")
        mounted: frozenset[str] = frozenset() if kind == "cgroup2" else frozenset(options.split(","))
        key = next((one for one in places if one == mounted or (one and one <= mounted)), None)
        if key is None or places[key].startswith("/.."):
            continue
        # In a container the mount shows a part of the hierarchy only; the path is told from its top.
        inner = places[key].removeprefix(root if root != "/" else "")
        own = Path(mount_point) / inner.lstrip("/")
        found.append(Hierarchy(key, Path(mount_point), own if own.is_dir() else Path(mount_point)))
    return found


def members(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return []


def kill_members(folders: Iterable[Path]) -> int:
    """SIGKILL to all who are in these groups, and how many there were."""
    killed = 0
    for folder in folders:
        with suppress(OSError):
            (folder / "cgroup.kill").write_text("1")
        for pid in members(folder):
            with suppress(OSError):
                pidfd = os.pidfd_open(pid)
                try:
                    # Looked at again: the number could have become somebody else's.
                    if pid in members(folder):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        killed += 1
                finally:
                    os.close(pidfd)
        # What is frozen in version 1 does not die.
        with suppress(OSError):
            if (folder / "freezer.state").exists():
                (folder / "freezer.state").write_text("THAWED")
    return killed


def remove_folders(folders: Iterable[Path]) -> bool:
    """False: processes are still leaving one of them."""
    is_gone = True
    for folder in folders:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            is_gone = False
    return is_gone


def freeze(file: Path, order: str, is_frozen: Callable[[], bool], group: Group) -> bool:
    """Write the order and wait until nothing in the group runs. False: that cannot be, and it goes on running."""
    until = time.monotonic() + _FREEZE_TIMEOUT_S
    try:
        file.write_text(order)
        while not is_frozen():
            if time.monotonic() > until:
                group.thaw()
                return False
            time.sleep(_FREEZE_POLL_S)
    except OSError:
        group.thaw()
        return False
    return True


def open_joins(files: Iterable[Path]) -> tuple[int, ...]:
    opened: list[int] = []
    try:
        opened.extend(os.open(file, os.O_WRONLY | os.O_CLOEXEC) for file in files)
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return tuple(opened)


def read_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def read_fields(file: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {fields[0]: int(fields[1]) for fields in lines if len(fields) == 2 and fields[1].isdigit()}
