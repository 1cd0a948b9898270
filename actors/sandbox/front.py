"""Sandboxes as the API and agents use them: found by id, brought back when they sleep, kept alive while in use."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.ports import Held, Order, Pools, Registry
from configs.sandboxes import Profiles
from serve_app.core.clock import Clock
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import OrgId, SandboxId, SessionId, SnapshotId
from serve_app.core.domain.sandboxes import (
    Door,
    EndReason,
    Lease,
    Sandbox,
    SandboxState,
    Service,
    Snapshot,
)
from serve_app.core.errors import (
    AetherError,
    FencedError,
    NotFoundError,
    SandboxEndedError,
    SandboxLostError,
    TimedOutError,
    UnavailableError,
    UnknownProfileError,
)
from serve_app.core.telemetry import get_logger

_TICK_S, _RENEW_S = 1.0, 5.0
"""A sandbox in use is renewed so often, or four times while its lease lasts; before one that was not renewed for twice
as long is used again, its pool is asked."""
_FORGET_S = 120.0
_START_S = 60.0
"""A caller waits so long for a sandbox to come back. It goes on coming back: the next one waits for the same start."""
_POLL_S = 0.1
_TRIES = 3


@dataclass
class _Open:
    """A sandbox this process has a way to."""

    org_id: OrgId
    lease: Lease
    client: SandboxClient
    used_at: float
    renewed_at: float
    held: Held = field(init=False)
    losses: int = 0
    """Of connections, when the pool was last heard to hold it."""

    def __post_init__(self) -> None:
        self.held = _held(self.lease)

    @property
    def renew_s(self) -> float:
        return min(_RENEW_S, self.lease.ttl_s / 4)

    def is_certain(self, now: float) -> bool:
        """Its pool need not be asked before it is used."""
        client = self.client
        return not client.is_lost and client.losses == self.losses and now - self.renewed_at <= 2 * self.renew_s

    def needs_renewal(self, now: float) -> bool:
        # A use of long ago, told late, must not wake what has fallen asleep since.
        was_used = self.used_at > self.renewed_at and now - self.used_at <= 2 * self.renew_s
        return (self.client.is_busy or was_used) and now - self.renewed_at >= self.renew_s


class Sandboxes:
    """One a process. `start` it before use; `close` closes the clients, the sandboxes live on."""

    def __init__(
        self,
        registry: Registry,
        pools: Pools,
        profiles: Profiles,
        clock: Clock,
        *,
        dial: Callable[[Door, SandboxId, str], SandboxClient],
    ) -> None:
        self.profiles = profiles
        self._registry = registry
        self._pools = pools
        self._clock = clock
        self._dial = dial
        self._open: dict[SandboxId, _Open] = {}
        self._locks: WeakValueDictionary[SandboxId, asyncio.Lock] = WeakValueDictionary()
        self._renewing: asyncio.Task[None] | None = None
        self._starts: set[asyncio.Task[Sandbox]] = set()

    async def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew_forever(), name="sandbox renewal")

    async def close(self) -> None:
        if self._renewing:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        starts = list(self._starts)
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        await asyncio.gather(*(entry.client.close() for entry in self._open.values()))
        self._open.clear()

    async def create(
        self,
        caller: Caller,
        profile: str | None,
        *,
        session_id: SessionId | None = None,
        services: Sequence[Service] = (),
        idempotency_key: str | None = None,
    ) -> Sandbox:
        """A new sandbox, running.

        Raises:
            UnknownProfileError: naming the profiles there are.
            QuotaExceededError: the organisation has as many as it may have.
            AtCapacityError: no node has room.
        """
        found = self.profiles.find(profile)
        if found is None:
            known = ", ".join(one.id for one in self.profiles.profiles)
            raise UnknownProfileError(f"There is no sandbox profile {profile!r}. Profiles: {known}.")
        for _ in range(_TRIES):
            row, is_new = await self._registry.create(caller, found.id, session_id, services, None, idempotency_key)
            async with self._lock(row.id):
                # Somebody may end it while it starts: that is then its state.
                with suppress(FencedError, SandboxEndedError):
                    if is_new:
                        return await self._restarted(row)
                    if row.state is not SandboxState.ENDED:
                        # The same request again: whoever made it first starts it.
                        await self._brought_back(caller.org_id, row.id, self._clock.monotonic() + _START_S)
                row = await self._registry.get(caller.org_id, row.id)
            if row.end_reason is not EndReason.FAILED:
                return row
            # Whoever made it first could not start it, and its key is free again.
        raise UnavailableError("The sandbox did not start. Try again.")

    async def client(self, caller: Caller, sandbox_id: SandboxId) -> SandboxClient:
        """The way into a sandbox; brings it back when it sleeps.

        Raises:
            NotFoundError: the organisation has no such sandbox.
            SandboxEndedError: it is no more.
            AtCapacityError, TimedOutError: it cannot be brought back right now.
        """
        entry = self._open.get(sandbox_id)
        now = self._clock.monotonic()
        if entry is not None and entry.org_id == caller.org_id:
            entry.used_at = now
            if entry.is_certain(now):
                return entry.client
        return await self._back(caller.org_id, sandbox_id)

    async def snapshot(self, caller: Caller, sandbox_id: SandboxId) -> Snapshot:
        """The workspace as it is now. One that is stored has its last one already; one that is frozen stays so.

        Raises:
            SandboxLostError: it died, and its workspace is as its last snapshot has it.
        """
        for _ in range(_TRIES):
            row = await self._settled(caller.org_id, sandbox_id)
            if row.lease is None:
                assert row.snapshot_id is not None  # noqa: S101 - what has no lease here is stored
                return await self._registry.snapshot(caller.org_id, row.snapshot_id)
            try:
                return await self._pools.snapshot(row.lease.door.node_id, _held(row.lease))
            except FencedError:
                await self._check_lost(row, row.lease)
        raise UnavailableError("The sandbox is passing from one node to another. Try again.")

    async def pause(self, caller: Caller, sandbox_id: SandboxId) -> Sandbox:
        """Store the workspace and give the processes up; the next use brings it back. Raises as `snapshot` does."""
        for _ in range(_TRIES):
            row = await self._settled(caller.org_id, sandbox_id)
            if row.lease is None:
                return row
            await self._forget(sandbox_id)
            try:
                await self._pools.store(row.lease.door.node_id, _held(row.lease))
            except FencedError:
                await self._check_lost(row, row.lease)
            else:
                return await self._registry.get(caller.org_id, sandbox_id)
        raise UnavailableError("The sandbox is passing from one node to another. Try again.")

    async def fork(self, caller: Caller, sandbox_id: SandboxId, snapshot_id: SnapshotId | None = None) -> Sandbox:
        """Another sandbox with this one's workspace, as it is now or as a snapshot has it. It starts when first used."""
        row = await self._registry.get(caller.org_id, sandbox_id)
        if snapshot_id is None:
            snapshot_id = (await self.snapshot(caller, sandbox_id)).id
        elif (await self._registry.snapshot(caller.org_id, snapshot_id)).sandbox_id != sandbox_id:
            raise NotFoundError("This sandbox has no such snapshot.")
        fork, _ = await self._registry.create(caller, row.profile, row.session_id, row.services, snapshot_id, None)
        return fork

    async def delete(self, caller: Caller, sandbox_id: SandboxId) -> None:
        """End it for good. Its snapshots stay as long as something needs them."""
        await self._registry.get(caller.org_id, sandbox_id)
        await self._registry.end(caller.org_id, sandbox_id, EndReason.DELETED)
        await self._forget(sandbox_id)
        # Only now is it certain where it was last: nobody can start it any more.
        row = await self._registry.get(caller.org_id, sandbox_id)
        if row.node_id:
            try:
                await self._pools.release(row.node_id, row.id, row.fence)
            except UnavailableError as exc:
                # Its pool learns it when the sandbox is idle, or reaches its limit of time.
                get_logger().warning("ended sandbox not released", sandbox_id=row.id, reason=exc.message)

    # --- bringing it back ---

    async def _back(self, org_id: OrgId, sandbox_id: SandboxId) -> SandboxClient:
        deadline = self._clock.monotonic() + _START_S
        async with self._lock(sandbox_id):
            return await self._brought_back(org_id, sandbox_id, deadline)

    async def _brought_back(self, org_id: OrgId, sandbox_id: SandboxId, deadline: float) -> SandboxClient:
        """Whatever state it is in. Its lock is held."""
        while self._clock.monotonic() < deadline:
            row = await self._registry.get(org_id, sandbox_id)
            match row.state:
                case SandboxState.RUNNING | SandboxState.FROZEN:
                    if client := await self._reached(row):
                        return client
                case SandboxState.STORED | SandboxState.STARTING:
                    begun = await self._registry.begin(org_id, sandbox_id)
                    if begun is None:
                        await asyncio.sleep(_POLL_S)
                        continue
                    start = self._begin(begun)
                    while not start.done() and self._clock.monotonic() < deadline:
                        await asyncio.wait({start}, timeout=_POLL_S)
                    if not start.done():
                        break
                    try:
                        start.result()
                    except FencedError:
                        # Somebody has ended it, or took us for dead and starts it: look again.
                        continue
                    return self._entry(sandbox_id).client
                case SandboxState.ENDED:
                    await self._forget(sandbox_id)
                    raise _ended(row)
        raise TimedOutError("The sandbox is still coming back. Try again.")

    def _begin(self, row: Sandbox) -> asyncio.Task[Sandbox]:
        """Whoever waits for it may leave: what was read of a large workspace is not to be read again and again."""
        start = asyncio.create_task(self._restarted(row), name=f"start of {row.id}")
        self._starts.add(start)
        start.add_done_callback(self._begun)
        return start

    def _begun(self, start: asyncio.Task[Sandbox]) -> None:
        self._starts.discard(start)
        if not start.cancelled() and (exc := start.exception()):
            get_logger().info(
                "sandbox did not come back", start=start.get_name(), reason=f"{type(exc).__name__}: {exc}"
            )

    async def _reached(self, row: Sandbox) -> SandboxClient | None:
        """The client of a sandbox that runs or is frozen, renewed; None when it turned out to be gone."""
        lease = row.lease
        assert lease is not None  # noqa: S101 - it has one in these states
        entry = self._open.get(row.id)
        losses = entry.client.losses if entry else 0
        try:
            is_there = await self._pools.wake(lease.door.node_id, _held(lease))
        except SandboxLostError:
            is_there = False
        if not is_there:
            await self._forget(row.id)
            await self._registry.lost(row.org_id, row.id, lease.fence)
            return None
        if entry and self._open.get(row.id) is entry and entry.lease.id == lease.id and not entry.client.is_lost:
            now = self._clock.monotonic()
            entry.renewed_at = entry.used_at = now
            entry.losses = losses
            return entry.client
        return await self._remember(row, lease)

    async def _restarted(self, row: Sandbox) -> Sandbox:
        """Whom the registry gave the fence starts it, and nobody else."""
        try:
            snapshot = await self._registry.snapshot(row.org_id, row.snapshot_id) if row.snapshot_id else None
            lease = await self._pools.lease(Order(row, snapshot), row.node_id)
        except BaseException:
            await asyncio.shield(self._give_up(row))
            raise
        await self._remember(row, lease)
        return replace(row, state=SandboxState.RUNNING, lease=lease, node_id=lease.door.node_id)

    async def _give_up(self, row: Sandbox) -> None:
        """It could not be started: back to its snapshot, or the end of it."""
        try:
            if row.snapshot_id:
                await self._registry.lost(row.org_id, row.id, row.fence)
            else:
                await self._registry.end(row.org_id, row.id, EndReason.FAILED, row.fence)
        except AetherError as exc:
            # Whoever wants it later finds its starter silent.
            get_logger().warning("sandbox that did not start not written down", sandbox_id=row.id, code=exc.code)

    async def _settled(self, org_id: OrgId, sandbox_id: SandboxId) -> Sandbox:
        """One that is leased or stored; what is being started is waited for. Raises `SandboxEndedError`."""
        row = await self._registry.get(org_id, sandbox_id)
        if row.state is SandboxState.STARTING:
            await self._back(org_id, sandbox_id)
            row = await self._registry.get(org_id, sandbox_id)
        if row.state is SandboxState.ENDED:
            raise _ended(row)
        return row

    async def _check_lost(self, row: Sandbox, lease: Lease) -> None:
        """Its pool does not hold it: it has moved meanwhile, or it is lost. Raises `SandboxLostError`."""
        await self._forget(row.id)
        if await self._registry.lost(row.org_id, row.id, lease.fence):
            raise SandboxLostError("The sandbox died. Its workspace is as its last snapshot has it.")

    # --- what is open here ---

    async def _remember(self, row: Sandbox, lease: Lease) -> SandboxClient:
        """In place of an older lease's; what is already in use of this one, or of a newer, stays."""
        now = self._clock.monotonic()
        entry = self._open.get(row.id)
        if entry and entry.lease.fence >= lease.fence and not entry.client.is_lost:
            return entry.client
        client = self._dial(lease.door, row.id, self._pools.node_id)
        self._open[row.id] = _Open(row.org_id, lease, client, now, now)
        if entry:
            await entry.client.close()
        return client

    async def _forget(self, sandbox_id: SandboxId) -> None:
        if entry := self._open.pop(sandbox_id, None):
            await entry.client.close()

    def _entry(self, sandbox_id: SandboxId) -> _Open:
        entry = self._open.get(sandbox_id)
        if entry is None:
            raise SandboxLostError("The sandbox was lost just now. Try again.")
        return entry

    def _lock(self, sandbox_id: SandboxId) -> asyncio.Lock:
        """One at a time brings a sandbox back. It is forgotten when nobody holds or awaits it."""
        lock = self._locks.get(sandbox_id)
        if lock is None:
            lock = self._locks[sandbox_id] = asyncio.Lock()
        return lock

    # --- keeping alive what is in use ---

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            await self.renew_used()

    async def renew_used(self) -> None:
        """Tell the pools what is in use here, where that is due; forget what is not."""
        now = self._clock.monotonic()
        by_node: dict[str, dict[SandboxId, _Open]] = {}
        for sandbox_id, entry in list(self._open.items()):
            if entry.client.is_busy:
                entry.used_at = now
            if now - entry.used_at > _FORGET_S or entry.client.is_lost:
                await self._forget(sandbox_id)
            elif entry.needs_renewal(now):
                by_node.setdefault(entry.lease.door.node_id, {})[sandbox_id] = entry
        await asyncio.gather(*(self._renew(node_id, entries, now) for node_id, entries in by_node.items()))

    async def _renew(self, node_id: str, entries: dict[SandboxId, _Open], now: float) -> None:
        try:
            gone = set(await self._pools.renew(node_id, [entry.held for entry in entries.values()]))
            for sandbox_id, entry in entries.items():
                entry.renewed_at = now
                if entry.lease.id in gone and self._open.get(sandbox_id) is entry:
                    await self._forget(sandbox_id)
            await self._registry.touch(list(entries))
        except AetherError as exc:
            get_logger().warning("sandboxes not renewed", node=node_id, code=exc.code, reason=exc.message)


def _held(lease: Lease) -> Held:
    return Held(lease.id, lease.fence)


def _ended(row: Sandbox) -> SandboxEndedError:
    reason = row.end_reason.value if row.end_reason else "unknown"
    return SandboxEndedError(f"This sandbox has ended: {reason}. Make another one.", reason=reason)
