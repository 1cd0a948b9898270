"""What holds each limit on this machine, worked out once, and what that makes of one profile."""

import os
import resource
from dataclasses import dataclass, field
from pathlib import Path

from actors.sandbox.base import Enforced, Means
from actors.sandbox.bubblewrap.cgroups import Groups, Quota, hierarchies
from actors.sandbox.bubblewrap.cgroups_v1 import find_v1
from actors.sandbox.bubblewrap.cgroups_v2 import find_v2
from actors.sandbox.bubblewrap.seccomp import UNACCOUNTED
from configs.sandboxes import Limits
from serve_app.core.errors import UnenforceableError

_OWN_PROCESSES = 2
"""bubblewrap, which waits outside, and the supervisor."""
_OWN_INODES = 64
"""The folders and files every box begins with."""
_SIGNALS_PER_PROCESS = 16
_LOCKED_BYTES = 64 * 1024


@dataclass(frozen=True)
class Holds:
    """The means of this machine. `why_not` says why there are no groups, or fewer."""

    groups: Groups | None
    why_not: str
    cores: tuple[int, ...] = field(default_factory=lambda: tuple(sorted(os.sched_getaffinity(0))))

    def has(self, controller: str) -> bool:
        return self.groups is not None and controller in self.groups.controllers

    @property
    def pins_cores(self) -> bool:
        return not self.has("cpu")

    @property
    def forbidden_calls(self) -> frozenset[str]:
        """System calls by which a sandbox would get around a limit that is held without a group."""
        return (frozenset() if self.has("memory") else UNACCOUNTED) | (
            frozenset({"sched_setaffinity"}) if self.pins_cores else frozenset()
        )

    def limits(self) -> tuple[Enforced, ...]:
        return (
            self._cpu(),
            self._memory(),
            Enforced("disk", Means.MOUNT, "a tmpfs of this size"),
            Enforced("inodes", Means.MOUNT, "a tmpfs with so many inodes"),
            Enforced("processes", Means.CGROUP)
            if self.has("pids")
            else Enforced("processes", Means.RLIMIT, "RLIMIT_NPROC, counted in the sandbox's own user namespace"),
            Enforced("open_files", Means.RLIMIT, "of one process"),
            Enforced("network", Means.NAMESPACE, "no interface but loopback"),
            Enforced("system_calls", Means.SECCOMP, "a list of what is allowed"),
        )

    def _cpu(self) -> Enforced:
        if self.has("cpu"):
            return Enforced("cpu", Means.CGROUP)
        return Enforced(
            "cpu",
            Means.SECCOMP,
            f"{self.why_not}: a sandbox is bound to whole cores and may not change that; less than one core is refused",
        )

    def _memory(self) -> Enforced:
        if self.groups is None or not self.has("memory"):
            return Enforced(
                "memory",
                Means.WATCHDOG,
                f"{self.why_not}: each process is held by RLIMIT_DATA, all together are looked at four times a second;"
                " buffers of TCP and pipes are not seen",
            )
        gaps = "".join(f"; not held: {gap}" for gap in self.groups.memory_gaps)
        together = "the workspace lives in memory: the group's limit is memory and disk together"
        return Enforced("memory", Means.CGROUP, together + gaps)

    def quota(self, limits: Limits) -> Quota:
        return Quota(limits.memory + limits.disk, limits.processes + _OWN_PROCESSES, limits.cpu)

    def cpus(self, limits: Limits, turn: int) -> list[int] | None:
        """The cores a sandbox is bound to, another choice each turn. None: not bound.

        Raises:
            UnenforceableError: less than one core was asked for, and no group can hold that.
        """
        if not self.pins_cores or limits.cpu >= len(self.cores):
            return None
        if limits.cpu < 1:
            raise UnenforceableError(
                f"This machine cannot hold a sandbox to {limits.cpu:g} of a core: {self.why_not}."
                " Give the profile one core or more, or make control groups possible.",
                limits=["cpu"],
            )
        count = int(limits.cpu)
        first = turn * count % len(self.cores)
        return [self.cores[(first + index) % len(self.cores)] for index in range(count)]

    def rlimits(self, limits: Limits) -> list[tuple[int, int]]:
        return [
            (resource.RLIMIT_NOFILE, limits.open_files),
            (resource.RLIMIT_FSIZE, limits.disk),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, _LOCKED_BYTES),
            (resource.RLIMIT_MSGQUEUE, 0),
            (resource.RLIMIT_NICE, 0),
            (resource.RLIMIT_RTPRIO, 0),
            (resource.RLIMIT_SIGPENDING, limits.processes * _SIGNALS_PER_PROCESS),
            *([] if self.has("memory") else [(resource.RLIMIT_DATA, int(limits.memory))]),
        ]

    def inodes(self, limits: Limits) -> int:
        return limits.inodes + _OWN_INODES

    def processes(self, limits: Limits) -> int:
        return limits.processes + _OWN_PROCESSES


def find_holds(name: str) -> Holds:
    """Look at this machine, and make the place for groups of this name where one can be."""
    found = hierarchies()
    reasons = []
    for hierarchy in found:
        if not hierarchy.controllers and _hands_out_limits(hierarchy.mount_point):
            groups, reason = find_v2(hierarchy, name, is_root=os.geteuid() == 0)
            if groups:
                return Holds(groups, "")
            reasons.append(reason)
    if any(hierarchy.controllers & {"memory", "pids", "cpu"} for hierarchy in found):
        older, reason = find_v1(found, name)
        if older:
            missing = {"memory", "pids", "cpu", "freezer"} - older.controllers
            return Holds(older, f"no control groups for {', '.join(sorted(missing))}" if missing else "")
        reasons.append(reason)
    return Holds(None, "; ".join(reasons) or "no control groups are mounted")


def _hands_out_limits(mount_point: Path) -> bool:
    try:
        offered = (mount_point / "cgroup.controllers").read_text().split()
    except OSError:
        return False
    return bool({"memory", "pids", "cpu"} & set(offered))
