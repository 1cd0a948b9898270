"""Control groups of version 1: a folder for each sandbox in each controller's hierarchy, below our own."""

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from actors.sandbox.base import Usage
from actors.sandbox.bubblewrap.cgroups import (
    Controller,
    Hierarchy,
    Quota,
    freeze,
    open_joins,
    read_fields,
    read_number,
    remove_folders,
)

_WANTED = ("memory", "pids", "cpu", "cpuacct", "freezer")
_KNOWN: tuple[Controller, ...] = ("memory", "pids", "cpu", "freezer")
_PERIOD_US, _LEAST_QUOTA_US = 100_000, 1_000
_TCP_LIMIT = "memory.kmem.tcp.limit_in_bytes"
_SWAP_LIMIT = "memory.memsw.limit_in_bytes"
_MOST_TCP_BYTES, _TCP_SHARE = 64 * 1024**2, 4


class V1Group:
    """`folders` by controller; hierarchies with two controllers have one folder for both."""

    def __init__(self, folders: Mapping[str, Path], joins: tuple[int, ...]) -> None:
        self._by_controller = folders
        self._joins = joins

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(self._by_controller.values()))

    @property
    def joins(self) -> tuple[int, ...]:
        return self._joins

    def close_joins(self) -> None:
        for descriptor in self._joins:
            os.close(descriptor)
        self._joins = ()

    def usage(self) -> Usage:
        nanoseconds = self._number("cpuacct", "cpuacct.usage")
        return Usage(
            memory_bytes=self._number("memory", "memory.usage_in_bytes"),
            cpu_s=None if nanoseconds is None else nanoseconds / 1e9,
            processes=self._number("pids", "pids.current"),
        )

    def killed_for_memory(self) -> int:
        folder = self._by_controller.get("memory")
        return read_fields(folder / "memory.oom_control").get("oom_kill", 0) if folder else 0

    def freeze(self) -> bool:
        folder = self._by_controller.get("freezer")
        if folder is None:
            return False
        state = folder / "freezer.state"
        return freeze(state, "FROZEN", lambda: state.read_text().strip() == "FROZEN", self)

    def thaw(self) -> None:
        if folder := self._by_controller.get("freezer"):
            with suppress(OSError):
                (folder / "freezer.state").write_text("THAWED")

    def _number(self, controller: str, name: str) -> int | None:
        folder = self._by_controller.get(controller)
        return read_number(folder / name) if folder else None


class V1Groups:
    """`places`: a folder of ours by controller."""

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._places = places

    @property
    def controllers(self) -> frozenset[Controller]:
        return frozenset(one for one in _KNOWN if one in self._places)

    @property
    def memory_gaps(self) -> tuple[str, ...]:
        if (place := self._places.get("memory")) is None:
            return ()
        gaps = ((_TCP_LIMIT, "buffers of TCP"), (_SWAP_LIMIT, "swap while the whole machine is short of memory"))
        return tuple(what for file, what in gaps if not (place / file).exists())

    @property
    def places(self) -> frozenset[Path]:
        return frozenset(self._places.values())

    def create(self, name: str, quota: Quota) -> V1Group:
        folders = {controller: place / name for controller, place in self._places.items()}
        distinct = tuple(dict.fromkeys(folders.values()))
        try:
            for folder in distinct:
                folder.mkdir()
            for controller, folder in folders.items():
                _limit(controller, folder, quota)
            # Not cgroup.procs: a thread that moves itself alone does not stop the forks of the whole machine.
            return V1Group(folders, open_joins(folder / "tasks" for folder in distinct))
        except BaseException:
            remove_folders(distinct)
            raise

    def close(self) -> None:
        remove_folders(dict.fromkeys(self._places.values()))


def _limit(controller: str, folder: Path, quota: Quota) -> None:
    match controller:
        case "memory":
            (folder / "memory.limit_in_bytes").write_text(str(quota.memory_bytes))
            if (folder / _SWAP_LIMIT).exists():
                (folder / _SWAP_LIMIT).write_text(str(quota.memory_bytes))
            else:
                # What is over the limit must not go to the host's swap instead.
                (folder / "memory.swappiness").write_text("0")
            if (folder / _TCP_LIMIT).exists():
                # Version 1 counts them apart, and the whole machine has one pool of them.
                most = min(_MOST_TCP_BYTES, quota.memory_bytes // _TCP_SHARE)
                (folder / _TCP_LIMIT).write_text(str(most))
        case "pids":
            (folder / "pids.max").write_text(str(quota.processes))
        case "cpu":
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            try:
                (folder / "cpu.cfs_quota_us").write_text(str(max(_LEAST_QUOTA_US, round(quota.cpu * _PERIOD_US))))
            except OSError as exc:
                # More than the group we live in has: that one's limit is the narrower, and holds.
                if exc.errno != errno.EINVAL:
                    raise
        case _:
            pass


def find_v1(found: Sequence[Hierarchy], name: str) -> tuple[V1Groups | None, str]:
    """Make our folder in every hierarchy where we may; without any, say why."""
    places: dict[str, Path] = {}
    refused: list[str] = []
    for hierarchy in found:
        wanted = [controller for controller in _WANTED if controller in hierarchy.controllers]
        if not wanted:
            continue
        place = hierarchy.own / name
        try:
            place.mkdir(exist_ok=True)
        except OSError as exc:
            refused.append(f"{place.parent}: {exc.strerror}")
            continue
        places |= dict.fromkeys(wanted, place)
    if not places:
        return None, f"no control groups may be made here ({refused[0] if refused else 'none are mounted'})"
    return V1Groups(places), ""
