"""Rows, workspaces and a clock in memory, as a pool and a front need them and tests own them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from actors.sandbox.door.client import SandboxClient
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import (
    OrgId,
    SandboxId,
    SessionId,
    SnapshotId,
    new_org_id,
    new_sandbox_id,
    new_snapshot_id,
    new_user_id,
)
from serve_app.core.domain.sandboxes import EndReason, Lease, Sandbox, SandboxState, Service, Snapshot
from serve_app.core.errors import AetherError, NotFoundError, QuotaExceededError

_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_HELD = (SandboxState.RUNNING, SandboxState.FROZEN)
_LIVE = (SandboxState.STARTING, *_HELD)


def new_caller() -> Caller:
    return Caller(org_id=new_org_id(), user_id=new_user_id(), role="owner")


class ManualClock:
    """Time passes when a test says so."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return _NOON + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return self.passed_s


class MemoryRegistry:
    """The rows, as PostgreSQL's functions change them. `fails` is raised by every call while it is set."""

    def __init__(self, clock: ManualClock, quota: int = 100) -> None:
        self.rows: dict[SandboxId, Sandbox] = {}
        self.snapshots: dict[SnapshotId, Snapshot] = {}
        self.pools: dict[str, tuple[str, float]] = {}
        self.pool_of: dict[SandboxId, str] = {}
        self.touched: list[SandboxId] = []
        self.fails: Exception | None = None
        self.before_running: Callable[[], Awaitable[None]] | None = None
        self._keys: dict[tuple[OrgId, str], SandboxId] = {}
        self.started_at: dict[SandboxId, float] = {}
        self._clock = clock
        self.quota = quota

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails

    async def create(
        self,
        caller: Caller,
        profile: str,
        session_id: SessionId | None,
        services: Sequence[Service],
        snapshot_id: SnapshotId | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Sandbox, bool]:
        await self._reach()
        key = (caller.org_id, idempotency_key or "")
        if idempotency_key and key in self._keys:
            return self.rows[self._keys[key]], False
        if not snapshot_id and self._live(caller.org_id) >= self.quota:
            raise QuotaExceededError("Too many sandboxes.")
        state = SandboxState.STORED if snapshot_id else SandboxState.STARTING
        row = Sandbox(
            new_sandbox_id(), caller.org_id, caller.user_id, session_id, profile, state, 1, None, None, snapshot_id,
            tuple(services), _NOON, _NOON, None, None, caller.key_id,
        )  # fmt: skip
        self.rows[row.id] = row
        self.started_at[row.id] = self._clock.monotonic()
        if idempotency_key:
            self._keys[key] = row.id
        return row, True

    def _live(self, org_id: OrgId) -> int:
        return sum(row.org_id == org_id and row.state in _LIVE for row in self.rows.values())

    async def get(self, org_id: OrgId, sandbox_id: SandboxId) -> Sandbox:
        await self._reach()
        row = self.rows.get(sandbox_id)
        if row is None or row.org_id != org_id:
            raise NotFoundError("There is no such sandbox.")
        return row

    async def begin(self, org_id: OrgId, sandbox_id: SandboxId, stale_after_s: float = 30) -> Sandbox | None:
        row = await self.get(org_id, sandbox_id)
        is_stale = self._clock.monotonic() - self.started_at[sandbox_id] > stale_after_s
        if row.state is SandboxState.STORED and self._live(org_id) >= self.quota:
            raise QuotaExceededError("Too many sandboxes.")
        if row.state is SandboxState.STORED or (row.state is SandboxState.STARTING and is_stale):
            self.started_at[sandbox_id] = self._clock.monotonic()
            self.rows[row.id] = replace(row, state=SandboxState.STARTING, fence=row.fence + 1, lease=None)
            return self.rows[row.id]
        return None

    def _under(self, sandbox_id: SandboxId, fence: int | None, states: Sequence[SandboxState]) -> Sandbox | None:
        row = self.rows[sandbox_id]
        return row if row.state in states and fence in {None, row.fence} else None

    async def starting(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool:
        await self._reach()
        row = self._under(sandbox_id, fence, [SandboxState.STARTING])
        if row:
            self.started_at[sandbox_id] = self._clock.monotonic()
        return row is not None

    async def running(self, org_id: OrgId, sandbox_id: SandboxId, fence: int, lease: Lease, pool_id: str) -> bool:
        if self.before_running:
            await self.before_running()
        await self._reach()
        if row := self._under(sandbox_id, fence, [SandboxState.STARTING]):
            self.rows[row.id] = replace(row, state=SandboxState.RUNNING, lease=lease, node_id=lease.door.node_id)
            self.pool_of[row.id] = pool_id
        return row is not None

    async def frozen(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool:
        return await self._turn(sandbox_id, fence, SandboxState.FROZEN)

    async def thawed(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool:
        return await self._turn(sandbox_id, fence, SandboxState.RUNNING)

    async def _turn(self, sandbox_id: SandboxId, fence: int, state: SandboxState) -> bool:
        await self._reach()
        if row := self._under(sandbox_id, fence, _HELD):
            self.rows[row.id] = replace(row, state=state)
        return row is not None

    async def stored(self, org_id: OrgId, fence: int, snapshot: Snapshot) -> bool:
        is_ours = await self.add_snapshot(org_id, fence, snapshot)
        if is_ours:
            row = self.rows[snapshot.sandbox_id]
            self.rows[row.id] = replace(row, state=SandboxState.STORED, lease=None)
        return is_ours

    async def check_store(self, org_id: OrgId, sandbox_id: SandboxId) -> None:
        await self._reach()

    async def add_snapshot(self, org_id: OrgId, fence: int, snapshot: Snapshot) -> bool:
        await self._reach()
        if row := self._under(snapshot.sandbox_id, fence, _HELD):
            self.snapshots[snapshot.id] = snapshot
            self.rows[row.id] = replace(row, snapshot_id=snapshot.id)
        return row is not None

    async def lost(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> SandboxState | None:
        await self._reach()
        row = self._under(sandbox_id, fence, _LIVE)
        return self._lose(row) if row else None

    def _lose(self, row: Sandbox) -> SandboxState:
        state = SandboxState.STORED if row.snapshot_id else SandboxState.ENDED
        reason = None if row.snapshot_id else EndReason.LOST
        self.rows[row.id] = replace(row, state=state, lease=None, end_reason=reason)
        return state

    async def end(self, org_id: OrgId, sandbox_id: SandboxId, reason: EndReason, fence: int | None = None) -> bool:
        await self._reach()
        if row := self._under(sandbox_id, fence, [*_LIVE, SandboxState.STORED]):
            self.rows[row.id] = replace(row, state=SandboxState.ENDED, lease=None, end_reason=reason)
            if reason is EndReason.FAILED:
                self._keys = {key: found for key, found in self._keys.items() if found != row.id}
        return row is not None

    async def touch(self, sandbox_ids: Sequence[SandboxId]) -> None:
        await self._reach()
        self.touched += sandbox_ids

    async def open_pool(self, pool_id: str, node_id: str) -> None:
        await self._reach()
        self._bury([one for one, (node, _) in self.pools.items() if node == node_id])
        self.pools[pool_id] = (node_id, self._clock.monotonic())

    async def beat_pool(self, pool_id: str) -> bool:
        await self._reach()
        if pool_id in self.pools:
            self.pools[pool_id] = (self.pools[pool_id][0], self._clock.monotonic())
        return pool_id in self.pools

    async def lose_silent(self, older_than_s: float) -> int:
        await self._reach()
        now = self._clock.monotonic()
        return self._bury([one for one, (_, beat_at) in self.pools.items() if now - beat_at > older_than_s])

    def _bury(self, pools: Sequence[str]) -> int:
        for pool in pools:
            del self.pools[pool]
        lost = [row for row in self.rows.values() if row.state in _HELD and self.pool_of.get(row.id) in pools]
        for row in lost:
            self._lose(row)
        return len(lost)

    async def snapshot(self, org_id: OrgId, snapshot_id: SnapshotId) -> Snapshot:
        await self._reach()
        found = self.snapshots.get(snapshot_id)
        if found is None or found.org_id != org_id:
            raise NotFoundError("There is no such snapshot.")
        return found


class MemoryWorkspaces:
    """Captures at once, or when `gate` opens; raises `fails` while it is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: AetherError | None = None
        self.fails_with_parent: AetherError | None = None
        self.captures = 0
        self.restored: list[SnapshotId] = []

    async def capture(
        self, client: SandboxClient, org_id: OrgId, sandbox_id: SandboxId, parent: Snapshot | None
    ) -> Snapshot:
        self.captures += 1
        await self.gate.wait()
        if self.fails:
            raise self.fails
        if parent and self.fails_with_parent:
            raise self.fails_with_parent
        parent_id = parent.id if parent else None
        return Snapshot(new_snapshot_id(), org_id, sandbox_id, parent_id, "0" * 64, 1, 1, 1, _NOON)

    async def restore(self, client: SandboxClient, snapshot: Snapshot) -> None:
        await self.gate.wait()
        if self.fails:
            raise self.fails
        self.restored.append(snapshot.id)
