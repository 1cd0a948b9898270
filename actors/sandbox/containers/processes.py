"""A container's first process as this machine's kernel shows it: that it is the container's, its end, what it uses."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from actors.sandbox.base import Usage
from configs.sandboxes import Limits

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_MOST_BYTES = 64 * 1024
_TCP_BYTES = 64 * 1024 * 1024
"""Enough for the fastest loopback. Without a limit one sandbox takes what the whole machine has for sockets."""


class FirstProcess:
    """Held by a descriptor, so that its number cannot come to mean another process. Must be closed."""

    def __init__(self, pid: int, descriptor: int, groups: dict[str, Path]) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._groups = groups

    @classmethod
    def find(cls, pid: int, container: str) -> "FirstProcess | None":
        """None: this process does not see the engine's processes, or it has ended."""
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return None
        groups = _control_groups(pid)
        if not any(container in str(path) for path in groups.values()):
            os.close(descriptor)
            return None
        return cls(pid, descriptor, groups)

    async def ended(self) -> None:
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()
        descriptor = os.dup(self._descriptor)
        loop.add_reader(descriptor, _resolve, end)
        try:
            await end
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def usage(self) -> Usage:
        """Of the whole container: its control groups count every process in it."""
        if unified := self._groups.get(""):
            cpu_us = _field(unified / "cpu.stat", "usage_usec")
            cpu_s = None if cpu_us is None else cpu_us / 1e6
            return Usage(_number(unified / "memory.current"), cpu_s, _number(unified / "pids.current"))
        cpu_ns = self._read("cpuacct", "cpuacct.usage")
        return Usage(
            self._read("memory", "memory.usage_in_bytes"),
            None if cpu_ns is None else cpu_ns / 1e9,
            self._read("pids", "pids.current"),
        )

    def cores(self) -> float | None:
        """The most its control group lets it use. None: that is not limited."""
        if unified := self._groups.get(""):
            quota, _, period = _text(unified / "cpu.max").partition(" ")
            return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None
        quota_us, period_us = self._read("cpu", "cpu.cfs_quota_us"), self._read("cpu", "cpu.cfs_period_us")
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None

    def limit_tcp(self, limits: Limits) -> bool:
        """What its TCP sockets hold, of those made from now on. False: nothing counts that, and nothing can be done.

        Version 2 counts it as memory. For version 1 engines have an option that no runtime heeds.
        """
        if "" in self._groups:
            return True
        most_bytes = min(_TCP_BYTES, limits.memory // 4)
        try:
            (self._groups["memory"] / "memory.kmem.tcp.limit_in_bytes").write_text(str(most_bytes), encoding="ascii")
        except (KeyError, OSError):
            return False
        return True

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self, controller: str, name: str) -> int | None:
        group = self._groups.get(controller)
        return None if group is None else _number(group / name)


def end_shim(container: str) -> None:
    """Blocks. Kill what containerd has keep watch over a container, where this process may; containerd clears up."""
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            descriptor = os.pidfd_open(int(folder.name))
            try:
                program, *arguments = (folder / "cmdline").read_bytes().split(b"\0")
                if Path(os.fsdecode(program)).name.startswith("containerd-shim") and container.encode() in arguments:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


def _resolve(end: "asyncio.Future[None]") -> None:
    if not end.done():
        end.set_result(None)


def _control_groups(pid: int) -> dict[str, Path]:
    """Its group for each controller of version 1; under the empty name, that of version 2 where that one limits."""
    groups = {}
    for line in _text(_PROC / str(pid) / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            root = _CGROUPS / controller if controller else _CGROUPS
            groups[controller] = root / path.lstrip("/")
    if "memory" in groups:
        # Both versions are mounted, and the engine's limits are in version 1.
        groups.pop("", None)
    return groups


def _field(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            with suppress(ValueError):
                return int(value)
    return None


def _number(path: Path) -> int | None:
    with suppress(ValueError):
        return int(_text(path))
    return None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
