"""The leased sandboxes of one pool: found by lease, put to sleep, stored, and given up."""

import asyncio
from collections.abc import Awaitable, Callable

from actors.sandbox.ports import Held, Registry, Workspaces
from actors.sandbox.tenancy import Tenancy
from serve_app.core.clock import Clock
from serve_app.core.domain.ids import LeaseId, SandboxId
from serve_app.core.domain.sandboxes import EndReason, SandboxState, Snapshot
from serve_app.core.errors import AetherError, FencedError, NotFoundError, SandboxLostError, SandboxProtocolError
from serve_app.core.telemetry import Metrics, get_logger


class Tenancies:
    """Every change is made here and written under the tenancy's fence; what was fenced off is destroyed.

    `on_use` is told when the first is there and when the last is gone, `on_end` the profile of each that is gone.
    """

    def __init__(
        self,
        registry: Registry,
        workspaces: Workspaces,
        clock: Clock,
        metrics: Metrics,
        *,
        on_use: Callable[[bool], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._workspaces = workspaces
        self._clock = clock
        self._metrics = metrics
        self._on_use = on_use
        self._on_end = on_end
        self._all: set[Tenancy] = set()
        self._by_lease: dict[LeaseId, Tenancy] = {}
        self._by_row: dict[SandboxId, Tenancy] = {}

    def all(self) -> list[Tenancy]:
        """Also those that move in or out."""
        return list(self._all)

    def count(self, profile_id: str) -> int:
        """How many sandboxes of a profile there are, those being destroyed included."""
        return sum(tenancy.profile.id == profile_id for tenancy in self._all)

    def of_row(self, sandbox_id: SandboxId) -> Tenancy | None:
        return self._by_row.get(sandbox_id)

    def find(self, held: Held) -> Tenancy:
        """Raises `FencedError`."""
        tenancy = self._by_lease.get(held.lease_id)
        if tenancy is None:
            raise FencedError("This lease has ended.")
        tenancy.check(held)
        return tenancy

    # --- coming and going ---

    def add(self, tenancy: Tenancy) -> None:
        """It counts from now on, and is not yet its row's."""
        self._all.add(tenancy)
        tenancy.on_closed = lambda: self._leave(tenancy)
        if len(self._all) == 1:
            self._on_use(True)

    def _leave(self, tenancy: Tenancy) -> None:
        """Not before nothing of it is left, whoever waited for that."""
        self._all.remove(tenancy)
        if not self._all:
            self._on_use(False)
        self._on_end(tenancy.profile.id)

    async def seat(self, tenancy: Tenancy) -> None:
        """It is its row's from now on, in place of an older one: only one that was declared lost is ordered anew.

        Raises `FencedError` when a newer one has come first.
        """
        while older := self._by_row.get(tenancy.row.id):
            if older.lease.fence >= tenancy.lease.fence:
                raise FencedError("This sandbox has passed to another holder.")
            await self.end(older)
        self._by_row[tenancy.row.id] = tenancy
        self._by_lease[tenancy.lease.id] = tenancy

    def watch(self, tenancy: Tenancy) -> None:
        """Until it dies by itself."""
        tenancy.watch = asyncio.create_task(self._watch(tenancy), name=tenancy.row.id)

    async def _watch(self, tenancy: Tenancy) -> None:
        reason = await tenancy.started.wait()
        get_logger().warning("sandbox died", sandbox_id=tenancy.row.id, reason=reason)
        await self.lose(tenancy)

    async def end(self, tenancy: Tenancy) -> None:
        """Destroy it; nothing is written."""
        if self._by_row.get(tenancy.row.id) is tenancy:
            del self._by_row[tenancy.row.id]
        self._by_lease.pop(tenancy.lease.id, None)
        await tenancy.close()

    async def lose(self, tenancy: Tenancy) -> None:
        """It is of no more use: back to its last snapshot, or the end of it. Whoever ends it already, ends it."""
        if tenancy.is_over:
            return
        await self.end(tenancy)
        self._metrics.count("aether_sandbox_lost", profile=tenancy.profile.id)
        try:
            await self._registry.lost(tenancy.row.org_id, tenancy.row.id, tenancy.lease.fence)
        except AetherError as exc:
            # Whoever uses it next learns from this pool that it is gone, and writes the same.
            get_logger().warning("lost sandbox not written down", sandbox_id=tenancy.row.id, code=exc.code)

    async def end_because(self, tenancy: Tenancy, reason: EndReason) -> None:
        async with tenancy.lock:
            # Written first: what is only destroyed would be taken for lost, and come back.
            await self._registry.end(tenancy.row.org_id, tenancy.row.id, reason, tenancy.lease.fence)
            await self.end(tenancy)

    async def check_row(self, tenancy: Tenancy) -> None:
        """One that was ended while this pool did not answer is renewed by whoever still uses it, and would never end.

        Raises `FencedError`.
        """
        try:
            row = await self._registry.get(tenancy.row.org_id, tenancy.row.id)
        except NotFoundError:
            raise FencedError("This sandbox is no more.") from None
        if row.fence != tenancy.lease.fence or row.state is SandboxState.ENDED:
            raise FencedError("This sandbox has passed to another holder.")

    # --- its workspace ---

    async def snapshot(self, held: Held) -> Snapshot:
        """The workspace as it is now; the sandbox goes on as it was, running or frozen."""
        tenancy = self.find(held)
        async with tenancy.lock:
            tenancy.check(held)
            await self._registry.check_store(tenancy.row.org_id, tenancy.row.id)
            async with tenancy.still(self._clock.monotonic()):
                snapshot = await self._capture(tenancy, tenancy.snapshot)
                if await self._registry.add_snapshot(tenancy.row.org_id, tenancy.lease.fence, snapshot):
                    tenancy.snapshot = snapshot
                    return snapshot
                await self.end(tenancy)
        raise FencedError("This sandbox has passed to another holder.")

    async def store(self, held: Held) -> Snapshot:
        """Snapshot, and give the sandbox up."""
        tenancy = self.find(held)
        async with tenancy.lock:
            tenancy.check(held)
            return await self._store(tenancy)

    async def drain(self, tenancy: Tenancy) -> None:
        """Store it if that can be done, and give it up in any case."""
        async with tenancy.lock:
            if tenancy.is_over:
                await self.end(tenancy)
                return
            try:
                await self._store(tenancy)
            except FencedError:
                return
            except Exception as exc:  # noqa: BLE001 - one that cannot be stored must not keep the others from it
                get_logger().warning("workspace not stored", sandbox_id=tenancy.row.id, reason=str(exc))
                await self.lose(tenancy)

    async def _capture(self, tenancy: Tenancy, parent: Snapshot | None) -> Snapshot:
        return await self._workspaces.capture(tenancy.client, tenancy.row.org_id, tenancy.row.id, parent)

    async def _store(self, tenancy: Tenancy) -> Snapshot:
        """Its lock is held."""
        async with tenancy.still(self._clock.monotonic()):
            try:
                snapshot = await self._capture(tenancy, tenancy.snapshot)
            except SandboxProtocolError as exc:
                # Were it an honest one, its workspace would be gone for nothing: once more, with everything read anew.
                get_logger().error("workspace cannot be read", sandbox_id=tenancy.row.id, reason=exc.message)
                snapshot = await self._capture(tenancy, None)
            is_ours = await self._registry.stored(tenancy.row.org_id, tenancy.lease.fence, snapshot)
            await self.end(tenancy)
        if not is_ours:
            raise FencedError("This sandbox has passed to another holder.")
        return snapshot

    # --- sleep ---

    async def wake(self, tenancy: Tenancy, held: Held) -> None:
        """Use goes on; what was frozen runs again.

        Raises:
            FencedError: it has passed to another holder.
            BudgetExceededError: nothing is left to pay it with, and it stays frozen.
        """
        if tenancy.frozen_at is None and not tenancy.lock.locked():
            tenancy.check(held)
            tenancy.renewed_at = self._clock.monotonic()
            return
        async with tenancy.lock:
            tenancy.check(held)
            was_frozen = tenancy.frozen_at is not None
            await tenancy.thaw(self._clock.monotonic())
            if was_frozen and not await self._registry.thawed(tenancy.row.org_id, tenancy.row.id, tenancy.lease.fence):
                await self.end(tenancy)
                raise FencedError("This sandbox has passed to another holder.")

    async def freeze_idle(self, tenancy: Tenancy) -> None:
        """Unless it was used meanwhile."""
        async with tenancy.lock:
            now, profile = self._clock.monotonic(), tenancy.profile
            if not tenancy.is_over and now - tenancy.renewed_at > profile.idle_s:
                await self._freeze(tenancy, profile.keep_s)

    async def freeze_unpaid(self, tenancy: Tenancy) -> None:
        """Nothing is left to pay it with: it is stored as soon as that can be done, and runs no longer until then."""
        async with tenancy.lock:
            if not tenancy.is_over:
                get_logger().info("sandbox put away: budget spent", sandbox_id=tenancy.row.id)
                await self._freeze(tenancy, 0.0)
        await self.store_idle(tenancy)

    async def store_idle(self, tenancy: Tenancy) -> None:
        """Unless it was used meanwhile."""
        async with tenancy.lock:
            if tenancy.is_over or tenancy.frozen_at is None or self._clock.monotonic() < tenancy.store_at:
                return
            try:
                await self._store(tenancy)
            except BaseException:
                tenancy.put_off(self._clock.monotonic())
                raise

    async def tend(self, tenancy: Tenancy, work: Callable[[Tenancy], Awaitable[None]]) -> None:
        """Do something to it in the course of time. What has passed to another, or is of no more use, is destroyed."""
        try:
            await work(tenancy)
        except FencedError:
            await self.end(tenancy)
        except SandboxLostError as exc:
            get_logger().warning("sandbox given up", sandbox_id=tenancy.row.id, reason=exc.message)
            await self.lose(tenancy)
        except SandboxProtocolError as exc:
            get_logger().error("sandbox given up: not the protocol", sandbox_id=tenancy.row.id, reason=exc.message)
            await self.lose(tenancy)

    async def _freeze(self, tenancy: Tenancy, keep_s: float) -> None:
        await tenancy.freeze(self._clock.monotonic(), keep_s)
        if not await self._registry.frozen(tenancy.row.org_id, tenancy.row.id, tenancy.lease.fence):
            raise FencedError("This sandbox has passed to another holder.")
