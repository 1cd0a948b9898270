"""The port between pools and what isolates: a backend starts and stops one process tree behind one Unix socket."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from configs.sandboxes import Profile
from serve_app.core.domain.ids import SandboxId

LimitName = Literal["cpu", "memory", "disk", "inodes", "processes", "open_files", "network", "system_calls"]
WORKSPACE = "/work"
HOME = "/home/agent"
EGRESS_PORT = 3128
"""Where programs inside find the proxy, on 127.0.0.1."""


class Means(StrEnum):
    """What holds a limit."""

    CGROUP = "cgroup"
    RLIMIT = "rlimit"
    WATCHDOG = "watchdog"
    """Looked at every quarter of a second by the pool; what is over it is killed."""
    MOUNT = "mount"
    """The size of a file system."""
    NAMESPACE = "namespace"
    SECCOMP = "seccomp"
    ENGINE = "engine"
    """The container engine's own."""
    NOTHING = "nothing"


@dataclass(frozen=True)
class Enforced:
    """How one limit is held on this machine, and in words why not, or how well."""

    limit: LimitName
    means: Means
    note: str = ""


@dataclass(frozen=True)
class Ability:
    """What a backend can do on this machine. `reason` says why it cannot start sandboxes at all, and how to mend it."""

    backend: str
    is_usable: bool
    reason: str
    limits: tuple[Enforced, ...]

    def missing(self) -> list[Enforced]:
        return [one for one in self.limits if one.means is Means.NOTHING]


@dataclass(frozen=True)
class Usage:
    """What a sandbox uses now. None: the backend cannot tell cheaply."""

    memory_bytes: int | None
    cpu_s: float | None
    processes: int | None


class Started(Protocol):
    """One sandbox that runs. Whoever started it calls `destroy` exactly once."""

    @property
    def id(self) -> SandboxId: ...

    @property
    def door(self) -> Path:
        """A Unix socket on this node on which the supervisor answers. Only this process's user may connect."""
        ...

    @property
    def pid(self) -> int | None:
        """A process whose end is the sandbox's end, where the backend knows one."""
        ...

    async def wait(self) -> str:
        """Until the sandbox has died by itself; returns why, for people."""
        ...

    async def usage(self) -> Usage: ...

    async def freeze(self) -> bool:
        """Stop everything inside at once. False: this backend cannot; ask the supervisor (`freeze`)."""
        ...

    async def thaw(self) -> None: ...

    async def destroy(self) -> None:
        """Kill the whole tree and remove everything it had: processes, mounts, cgroups, sockets, files."""
        ...


class SandboxBackend(Protocol):
    """One way to isolate. Closed by whoever made it, after all of its sandboxes were destroyed."""

    @property
    def name(self) -> str: ...

    async def ability(self) -> Ability:
        """What this machine lets it do. Tried, not guessed. Cheap after the first time."""
        ...

    async def start(self, sandbox_id: SandboxId, profile: Profile, token: str) -> Started:
        """Start one and wait until its supervisor answers.

        Raises:
            UnenforceableError: this machine cannot hold a limit of the profile.
            UnavailableError: it did not start; trying again may help.
        """
        ...

    async def sweep(self) -> int:
        """Destroy what an earlier life of this node's pool left behind, and tell how many. Called before the first start."""
        ...

    async def close(self) -> None: ...
