"""Control groups of version 2: one folder per sandbox, where this process's own group was given away to us."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from actors.sandbox.base import Usage
from actors.sandbox.bubblewrap.cgroups import (
    Controller,
    Hierarchy,
    Quota,
    freeze,
    members,
    open_joins,
    read_fields,
    read_number,
    remove_folders,
)

_CONTROLLERS: tuple[Controller, ...] = ("memory", "pids", "cpu")
_PERIOD_US, _LEAST_QUOTA_US = 100_000, 1_000
_MOST_MOVES = 20
_LEAF = "aether-platform"
_HOW = "start the platform with `systemd-run --user --scope -p Delegate=yes aether up`"


class V2Group:
    def __init__(self, folder: Path, joins: tuple[int, ...]) -> None:
        self._folder = folder
        self._joins = joins

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self._folder,)

    @property
    def joins(self) -> tuple[int, ...]:
        return self._joins

    def close_joins(self) -> None:
        for descriptor in self._joins:
            os.close(descriptor)
        self._joins = ()

    def usage(self) -> Usage:
        microseconds = read_fields(self._folder / "cpu.stat").get("usage_usec")
        return Usage(
            memory_bytes=read_number(self._folder / "memory.current"),
            cpu_s=None if microseconds is None else microseconds / 1e6,
            processes=read_number(self._folder / "pids.current"),
        )

    def killed_for_memory(self) -> int:
        return read_fields(self._folder / "memory.events").get("oom_kill", 0)

    def freeze(self) -> bool:
        events = self._folder / "cgroup.events"
        return freeze(self._folder / "cgroup.freeze", "1", lambda: read_fields(events).get("frozen") == 1, self)

    def thaw(self) -> None:
        with suppress(OSError):
            (self._folder / "cgroup.freeze").write_text("0")


class V2Groups:
    """`place` is a folder of ours that hands its controllers on."""

    def __init__(self, place: Path) -> None:
        self._place = place
        enabled = handed_on(place)
        has_freezer = (place / "cgroup.freeze").exists()
        limits = {one for one in _CONTROLLERS if one in enabled}
        self._controllers: frozenset[Controller] = frozenset(limits | ({"freezer"} if has_freezer else set()))

    @property
    def controllers(self) -> frozenset[Controller]:
        return self._controllers

    @property
    def memory_gaps(self) -> tuple[str, ...]:
        return ()

    @property
    def places(self) -> frozenset[Path]:
        return frozenset({self._place})

    def create(self, name: str, quota: Quota) -> V2Group:
        folder = self._place / name
        try:
            folder.mkdir()
            if "memory" in self._controllers:
                (folder / "memory.max").write_text(str(quota.memory_bytes))
                if (folder / "memory.swap.max").exists():
                    (folder / "memory.swap.max").write_text("0")
            if "pids" in self._controllers:
                (folder / "pids.max").write_text(str(quota.processes))
            if "cpu" in self._controllers:
                quota_us = max(_LEAST_QUOTA_US, round(quota.cpu * _PERIOD_US))
                (folder / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
            return V2Group(folder, open_joins([folder / "cgroup.procs"]))
        except BaseException:
            remove_folders([folder])
            raise

    def close(self) -> None:
        remove_folders([self._place])


def handed_on(folder: Path) -> set[str]:
    try:
        return set((folder / "cgroup.subtree_control").read_text().split())
    except OSError:
        return set()


def find_v2(hierarchy: Hierarchy, name: str, *, is_root: bool) -> tuple[V2Groups | None, str]:
    """The first of our own group and, for root, the topmost one that may be divided among sandboxes."""
    top = hierarchy.mount_point
    # An earlier pool of this platform has moved us into the leaf already.
    own = hierarchy.own.parent if hierarchy.own.name == _LEAF else hierarchy.own
    reasons = []
    for parent in dict.fromkeys([own, *([top] if is_root and is_topmost(top) else [])]):
        try:
            if not set(_CONTROLLERS) & handed_on(parent) and not _divide(parent):
                reasons.append(f"{parent} was not given away to this user")
                continue
            place = parent / name
            place.mkdir(exist_ok=True)
            _hand_on(place)
        except OSError as exc:
            reasons.append(f"{parent}: {exc.strerror}")
            continue
        if set(_CONTROLLERS) & handed_on(place):
            return V2Groups(place), ""
        remove_folders([place])
        reasons.append(f"{parent} hands no controllers on")
    return None, f"no control groups may be made ({'; '.join(reasons)}); {_HOW}"


def is_topmost(folder: Path) -> bool:
    """The hierarchy's real root, which has no events file and may hold processes beside groups."""
    return not (folder / "cgroup.events").exists()


def is_given_away(folder: Path, *, mount_point: Path) -> bool:
    """Whether nobody else manages what is below: a container's own root, or systemd's `Delegate=yes`."""
    if folder == mount_point and not is_topmost(folder):
        return True
    for attribute in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(folder, attribute) == b"1":
                return True
    return os.geteuid() != 0 and folder.stat().st_uid == os.geteuid()


def _divide(folder: Path) -> bool:
    """Hand controllers on. Processes may not be beside groups that have them, so all here move into a leaf."""
    if not is_topmost(folder) and not is_given_away(folder, mount_point=_mount_point(folder)):
        return False
    _hand_on(folder)
    if set(_CONTROLLERS) & handed_on(folder):
        return True
    leaf = folder / _LEAF
    leaf.mkdir(exist_ok=True)
    for _ in range(_MOST_MOVES):
        for pid in members(folder):
            with suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(str(pid))
        _hand_on(folder)
        if set(_CONTROLLERS) & handed_on(folder):
            return True
    return False


def _mount_point(folder: Path) -> Path:
    """The topmost group that is visible from here."""
    return max((one for one in [folder, *folder.parents] if one.is_mount()), key=lambda one: len(one.parts))


def _hand_on(folder: Path) -> None:
    offered = set((folder / "cgroup.controllers").read_text().split()) - handed_on(folder)
    for controller in sorted(offered & set(_CONTROLLERS)):
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as exc:
            if exc.errno not in {errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP}:
                raise
