"""What a pool and its front need from elsewhere, as ports; and what they say to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.sandbox.door.client import SandboxClient
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import LeaseId, OrgId, SandboxId, SessionId, SnapshotId
from serve_app.core.domain.sandboxes import EndReason, Lease, Sandbox, SandboxState, Service, Snapshot

_FIRST_S, _BYTES_PER_S, _EACH_FILE_S = 60.0, 4 * 1024 * 1024, 0.002


def allowed_s(files: int = 0, size_bytes: int = 0) -> float:
    """How long a sandbox with such a workspace may take to come back, or to be stored."""
    return _FIRST_S + size_bytes / _BYTES_PER_S + files * _EACH_FILE_S


@dataclass(frozen=True)
class Order:
    """What a pool is asked for: this row's sandbox, brought to life under the row's fence."""

    sandbox: Sandbox
    snapshot: Snapshot | None

    @property
    def allowed_s(self) -> float:
        return allowed_s(self.snapshot.files, self.snapshot.size_bytes) if self.snapshot else allowed_s()


@dataclass(frozen=True)
class Held:
    """A lease as its holder names it to the pool: a call with an older fence is refused."""

    lease_id: LeaseId
    fence: int


@dataclass(frozen=True)
class Room:
    """One profile on one node: how many wait ready, and how many more may be leased."""

    warm: int
    free: int


@dataclass(frozen=True)
class Capacity:
    """What one node's pool has. `rooms` by profile; a profile that is not there cannot be had there."""

    node_id: str
    rooms: dict[str, Room]


class Registry(Protocol):
    """The rows of sandboxes. Every change names the fence it was made under, and answers whether that still held."""

    async def create(
        self,
        caller: Caller,
        profile: str,
        session_id: SessionId | None,
        services: Sequence[Service],
        snapshot_id: SnapshotId | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Sandbox, bool]:
        """The row, and whether it was made by this call (and not by an earlier one with the same key)."""
        ...

    async def get(self, org_id: OrgId, sandbox_id: SandboxId) -> Sandbox: ...

    async def begin(self, org_id: OrgId, sandbox_id: SandboxId, stale_after_s: float = 30) -> Sandbox | None: ...

    async def starting(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool:
        """Whoever starts it is at it still: it does not become stale."""
        ...

    async def running(self, org_id: OrgId, sandbox_id: SandboxId, fence: int, lease: Lease, pool_id: str) -> bool: ...

    async def frozen(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool: ...

    async def thawed(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool: ...

    async def stored(self, org_id: OrgId, fence: int, snapshot: Snapshot) -> bool: ...

    async def check_store(self, org_id: OrgId, sandbox_id: SandboxId) -> None:
        """Raises `QuotaExceededError`: there is no room for another snapshot."""
        ...

    async def add_snapshot(self, org_id: OrgId, fence: int, snapshot: Snapshot) -> bool: ...

    async def lost(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> SandboxState | None: ...

    async def end(self, org_id: OrgId, sandbox_id: SandboxId, reason: EndReason, fence: int | None = None) -> bool: ...

    async def touch(self, sandbox_ids: Sequence[SandboxId]) -> None: ...

    async def open_pool(self, pool_id: str, node_id: str) -> None: ...

    async def beat_pool(self, pool_id: str) -> bool: ...

    async def lose_silent(self, older_than_s: float) -> int: ...

    async def snapshot(self, org_id: OrgId, snapshot_id: SnapshotId) -> Snapshot: ...


class Workspaces(Protocol):
    """Keeps workspaces as snapshots, whole or not at all."""

    async def capture(
        self, client: SandboxClient, org_id: OrgId, sandbox_id: SandboxId, parent: Snapshot | None
    ) -> Snapshot:
        """Everything in the workspace now; only what changed since `parent` is read and stored."""
        ...

    async def restore(self, client: SandboxClient, snapshot: Snapshot) -> None:
        """Into an empty workspace. Raises `CorruptedError` when stored bytes do not match their digests."""
        ...


class Meterage(Protocol):
    """Charges one sandbox while its processes may run."""

    async def begin(self) -> None:
        """Reserve the first slice. Raises `BudgetExceededError`, `RateLimitedError`, `UnavailableError`."""
        ...

    async def tick(self) -> None:
        """Settle what has passed and reserve what comes, where a slice ends. Raises `BudgetExceededError`."""
        ...

    async def end(self) -> None:
        """Settle what was used. It may begin again."""
        ...


class Meters(Protocol):
    def of(self, sandbox: Sandbox, nanos_per_second: int) -> Meterage: ...


class Outlet(Protocol):
    """The way out of one sandbox."""

    async def close(self) -> None: ...


class Outlets(Protocol):
    """Opens a way out for sandboxes whose profile has one."""

    def open(self, sandbox: Sandbox, client: SandboxClient) -> Outlet | None: ...


class Pools(Protocol):
    """The pools of all nodes, as those see them who need a sandbox."""

    @property
    def node_id(self) -> str:
        """The node this process is on: its sandboxes are reached without a relay."""
        ...

    async def lease(self, order: Order, prefer: str | None) -> Lease:
        """Raises `AtCapacityError`, `UnenforceableError`, `BudgetExceededError`, `FencedError`."""
        ...

    async def renew(self, node_id: str, held: Sequence[Held]) -> list[LeaseId]:
        """Use goes on; frozen ones run again soon. Returns those the node does not hold, all when it is no more.

        Raises `UnavailableError` when the node does not answer.
        """
        ...

    async def wake(self, node_id: str, held: Held) -> bool:
        """It runs when this returns. False: the node does not hold it.

        Raises `BudgetExceededError`, `UnavailableError`.
        """
        ...

    async def snapshot(self, node_id: str, held: Held) -> Snapshot:
        """Raises `FencedError` when the node does not hold it, `SandboxLostError` when it is no more."""
        ...

    async def store(self, node_id: str, held: Held) -> Snapshot:
        """Snapshot, and give the sandbox up. Raises as `snapshot` does."""
        ...

    async def release(self, node_id: str, sandbox_id: SandboxId, fence: int) -> None:
        """End it, held under this fence or an older one, and keep nothing."""
        ...
