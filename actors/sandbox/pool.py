"""A node's pool of sandboxes: leases them, watches them, puts the idle to sleep, and gives up what nobody renews."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from actors.sandbox.base import Means, SandboxBackend
from actors.sandbox.chores import Chores
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.keeping import kept_starting
from actors.sandbox.ports import Capacity, Held, Meterage, Meters, Order, Outlets, Registry, Room, Workspaces
from actors.sandbox.stock import Ready, Stock
from actors.sandbox.tenancies import Tenancies
from actors.sandbox.tenancy import Tenancy
from actors.sandbox.tending import Tending
from actors.sandbox.watchdog import watch_memory
from configs.sandboxes import BackendName, Profile, Profiles
from serve_app.core.clock import Clock
from serve_app.core.domain.ids import LeaseId, SandboxId, new_lease_id
from serve_app.core.domain.sandboxes import Door, Lease, Snapshot
from serve_app.core.errors import (
    AetherError,
    AtCapacityError,
    FencedError,
    SandboxLostError,
    UnavailableError,
    UnenforceableError,
)
from serve_app.core.telemetry import Metrics, get_logger

_TEND_S, _BEAT_S, _LOOK_S = 1.0, 2.0, 30.0
_SILENT_POOL_S = 15.0
_CONNECTIONS, _SPARE_CONNECTIONS = 8, 4
_SPARE_MEMORY_BYTES = 256 * 1024 * 1024


class Pool:
    """One life of a node's pool. `dial` makes a client of a door's path and token with so many connections at most;
    `free_memory` tells bytes; `on_use` is told when the first sandbox is leased and when the last is given up."""

    def __init__(
        self,
        node_id: str,
        profiles: Profiles,
        backends: Mapping[BackendName, SandboxBackend],
        registry: Registry,
        workspaces: Workspaces,
        meters: Meters,
        outlets: Outlets,
        clock: Clock,
        metrics: Metrics,
        *,
        dial: Callable[[Path, str, int], SandboxClient],
        free_memory: Callable[[], int],
        on_use: Callable[[bool], None] = lambda _: None,
        most_starting: int = 4,
    ) -> None:
        self.id = f"pool-{secrets.token_hex(8)}"
        self._node_id = node_id
        self._profiles = profiles
        self._backends = backends
        self._registry = registry
        self._workspaces = workspaces
        self._tenancies = Tenancies(
            registry, workspaces, clock, metrics, on_use=on_use, on_end=lambda profile: self._stocks[profile].fill()
        )
        self._meters = meters
        self._outlets = outlets
        self._clock = clock
        self._metrics = metrics
        self._dial = dial
        self._free_memory = free_memory
        self._starting = asyncio.Semaphore(most_starting)
        self.relay: str | None = None
        """`host:port` that leads to this node's doors from others."""
        self._stocks: dict[str, Stock] = {}
        self._leasing: dict[str, int] = {}
        self._chores = Chores()
        self._tending = Tending(self._tenancies, self._chores, clock)
        self._watchdogs: set[str] = set()
        self._reached_at: float | None = None
        """Since when each beat has reached the database."""
        self._is_closing = False

    # --- its life ---

    async def start(self) -> None:
        """Clear away what an earlier life left, and fill the stocks. A backend that cannot work here is left out."""
        await self._open()
        await asyncio.gather(*(self._take_in(name) for name in self._backends))

    async def run(self) -> None:
        """Tend to everything until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tend_forever(), name="sandbox pool")
            group.create_task(self._beat_forever(), name="sandbox pool's heart")
            group.create_task(self._look_forever(), name="sandbox backends")
            group.create_task(watch_memory(self._watched, self._end_overfull), name="sandbox watchdog")

    async def close(self) -> None:
        """Store the workspaces of all leased sandboxes, and destroy everything."""
        self._is_closing = True
        await self._chores.close()
        await asyncio.gather(*(stock.close() for stock in self._stocks.values()))
        while tenancies := self._tenancies.all():
            await asyncio.gather(*(self._tenancies.drain(tenancy) for tenancy in tenancies))
        for backend in self._backends.values():
            await backend.close()

    async def _open(self) -> None:
        while True:
            try:
                await self._registry.open_pool(self.id, self._node_id)
            except UnavailableError as exc:
                get_logger().warning("sandbox pool cannot reach the database", code=exc.code, reason=exc.message)
                await asyncio.sleep(_BEAT_S)
            else:
                return

    async def _take_in(self, name: BackendName) -> None:
        """Offer a backend's profiles, if it can work here."""
        backend = self._backends[name]
        try:
            if swept := await backend.sweep():
                get_logger().warning("leftover sandboxes destroyed", backend=name, count=swept)
            ability = await backend.ability()
        except AetherError as exc:
            get_logger().warning("sandbox backend not usable here", backend=name, reason=exc.message)
            return
        except Exception as exc:  # noqa: BLE001 - one backend that fails must not take the pool and its sandboxes along
            get_logger().exception("sandbox backend not usable here", backend=name, exc_info=exc)
            return
        if not ability.is_usable:
            get_logger().warning("sandbox backend not usable here", backend=name, reason=ability.reason)
            return
        if any(limit.means is Means.WATCHDOG for limit in ability.limits):
            self._watchdogs.add(name)
        for profile in self._profiles.profiles:
            if profile.backend == name and not self._is_closing:
                stock = Stock(profile, backend, self._starting, self._clock, self._room_of(profile))
                self._stocks[profile.id] = stock
                stock.fill()

    @property
    def leased(self) -> int:
        """How many sandboxes are in somebody's hands."""
        return len(self._tenancies.all())

    def capacity(self) -> Capacity:
        rooms = {}
        for name, stock in self._stocks.items():
            free = self._free(stock.profile)
            rooms[name] = Room(warm=stock.ready, free=free if self._has_memory() else min(free, stock.ready))
        return Capacity(self._node_id, {} if self._is_closing else rooms)

    def _free(self, profile: Profile) -> int:
        """How many more of this profile may be leased."""
        return max(0, profile.most - self._tenancies.count(profile.id) - self._leasing.get(profile.id, 0))

    def _has_memory(self) -> bool:
        return self._free_memory() >= _SPARE_MEMORY_BYTES

    def _room_of(self, profile: Profile) -> Callable[[], int]:
        """How many more sandboxes of this profile may be started to wait ready."""

        def room() -> int:
            stock = self._stocks.get(profile.id)
            waiting = stock.ready + stock.under_way if stock else 0
            return max(0, self._free(profile) - waiting) if self._has_memory() else 0

        return room

    # --- leases ---

    async def lease(self, order: Order) -> Lease:
        """A sandbox for this row, with its workspace as the snapshot has it and its services started.

        Raises:
            AtCapacityError: this node has no room for it, or not this profile.
            UnenforceableError: this machine cannot hold a limit of the profile.
            BudgetExceededError: nothing is left to pay it with.
            FencedError: somebody else has started this row since.
            UnavailableError: it did not start.
        """
        row = order.sandbox
        stock = self._stocks.get(row.profile)
        if stock is None or self._is_closing:
            raise AtCapacityError("This node does not offer this profile.")
        if not self._free(stock.profile) or not (stock.ready or self._has_memory()):
            raise AtCapacityError("This node has no room for another sandbox.")
        if (older := self._tenancies.of_row(row.id)) and older.lease.fence >= row.fence:
            raise FencedError("This sandbox has passed to another holder.")
        async with kept_starting(self._registry, row):
            tenancy = await self._taken(order, stock)
            try:
                async with tenancy.lock:
                    await self._move_in(tenancy, order)
            except BaseException:
                await self._tenancies.end(tenancy)
                raise
        self._metrics.count("aether_sandbox_leases", profile=row.profile)
        return tenancy.lease

    async def _taken(self, order: Order, stock: Stock) -> Tenancy:
        """One out of the stock, which is paid for from now on."""
        row = order.sandbox
        meterage = self._meters.of(row, stock.profile.nanos_per_second)
        self._leasing[row.profile] = self._leasing.get(row.profile, 0) + 1
        try:
            await meterage.begin()
            try:
                ready = await _ready(stock)
            except BaseException:
                await meterage.end()
                raise
            tenancy = self._tenancy(order, stock.profile, ready, meterage)
            self._tenancies.add(tenancy)
            return tenancy
        finally:
            self._leasing[row.profile] -= 1

    def _tenancy(self, order: Order, profile: Profile, ready: Ready, meterage: Meterage) -> Tenancy:
        row, path = order.sandbox, ready.started.door
        # A token of the lease's own, which opens the door when it has moved in: the stock's opens nothing then.
        door = Door(self._node_id, str(path), secrets.token_hex(16), self.relay)
        return Tenancy(
            row,
            Lease(new_lease_id(), row.id, row.fence, door, float(profile.idle_s)),
            profile,
            ready,
            self._dial(path, ready.token, _CONNECTIONS),
            # What goes out has connections of its own: many of them may wait, and are no use of the sandbox.
            self._dial(path, door.token, profile.egress.connections + _SPARE_CONNECTIONS),
            meterage,
            self._clock.monotonic(),
        )

    async def _move_in(self, tenancy: Tenancy, order: Order) -> None:
        """Its lock is held, so that nobody freezes or stores what is not yet whole."""
        await self._tenancies.seat(tenancy)
        if order.snapshot or order.sandbox.services:
            await self._furnish(tenancy, order)
            await self._mark_running(tenancy)
        else:
            # There is nothing to bring back: the row is written while the token is set.
            both = self._furnish(tenancy, order), self._mark_running(tenancy)
            for failed in filter(None, await asyncio.gather(*both, return_exceptions=True)):
                raise failed
        if tenancy.is_over:
            raise SandboxLostError("The sandbox was lost just now. Try again.")
        self._tenancies.watch(tenancy)

    async def _furnish(self, tenancy: Tenancy, order: Order) -> None:
        await tenancy.client.claim(tenancy.lease.door.token)
        if order.snapshot:
            await self._workspaces.restore(tenancy.client, order.snapshot)
            tenancy.snapshot = order.snapshot
        tenancy.outlet = self._outlets.open(tenancy.row, tenancy.way_out)
        await tenancy.start_services(order.sandbox.services)

    async def _mark_running(self, tenancy: Tenancy) -> None:
        row = tenancy.row
        if not await self._registry.running(row.org_id, row.id, row.fence, tenancy.lease, self.id):
            raise FencedError("This sandbox has passed to another holder.")

    async def renew(self, held: Sequence[Held]) -> list[LeaseId]:
        """Use goes on; what was frozen runs again soon. Returns the leases this pool does not hold."""
        gone = []
        for one in held:
            try:
                tenancy = self._tenancies.find(one)
            except FencedError:
                gone.append(one.lease_id)
                continue
            tenancy.renewed_at = self._clock.monotonic()
            if tenancy.frozen_at is not None and not tenancy.lock.locked():
                self._chores.do(self._wake(tenancy, one))
        return gone

    async def wake(self, held: Held) -> bool:
        """It runs when this returns. False: this pool does not hold it. Raises `BudgetExceededError`."""
        try:
            tenancy = self._tenancies.find(held)
        except FencedError:
            return False
        await self._wake(tenancy, held)
        return not tenancy.is_over

    async def _wake(self, tenancy: Tenancy, held: Held) -> None:
        await self._tenancies.tend(tenancy, lambda one: self._tenancies.wake(one, held))

    async def snapshot(self, held: Held) -> Snapshot:
        """The workspace as it is now; the sandbox goes on. Raises `FencedError`."""
        return await self._tenancies.snapshot(held)

    async def store(self, held: Held) -> Snapshot:
        """Snapshot, and give the sandbox up. Raises `FencedError`."""
        return await self._tenancies.store(held)

    async def release(self, sandbox_id: SandboxId, fence: int) -> None:
        """End it and keep nothing. One that is gone already is no error."""
        tenancy = self._tenancies.of_row(sandbox_id)
        if tenancy and tenancy.lease.fence <= fence:
            await self._tenancies.end(tenancy)

    def admits(self, sandbox_id: str, token: str) -> Path | None:
        """The door's path for a relay's caller who proves the lease; None refuses."""
        tenancy = self._tenancies.of_row(SandboxId(sandbox_id))
        if tenancy is None or not secrets.compare_digest(tenancy.lease.door.token.encode(), token.encode()):
            return None
        return tenancy.started.door

    # --- time passes ---

    async def _tend_forever(self) -> None:
        while True:
            await asyncio.sleep(_TEND_S)
            try:
                self.tend()
            except Exception as exc:  # noqa: BLE001 - what could not be looked at now can be the next time
                get_logger().exception("sandboxes not tended", exc_info=exc)

    def tend(self) -> None:
        """What is due now, of everything. It is begun here and ends by itself."""
        for tenancy in self._tenancies.all():
            self._tending.look(tenancy)
        for stock in self._stocks.values():
            stock.fill()
            stock.trim()

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            await self.beat()

    async def beat(self) -> None:
        """Tell the other pools that this one lives, and take those for dead that have been silent for long."""
        now = self._clock.monotonic()
        try:
            if not await self._registry.beat_pool(self.id):
                # Others took us for dead and may have started our sandboxes elsewhere.
                get_logger().error("this pool was declared dead; it starts anew")
                await self._begin_anew()
            if self._reached_at is None:
                self._reached_at = now
            # While the database was away nobody could beat: they get the same time again before they are taken for dead.
            if now - self._reached_at > _SILENT_POOL_S:
                await self._registry.lose_silent(_SILENT_POOL_S)
        except AetherError as exc:
            self._reached_at = None
            get_logger().warning("sandbox pool cannot reach the database", code=exc.code, reason=exc.message)
        except Exception as exc:  # noqa: BLE001 - a pool whose heart stops takes every sandbox of its node along
            self._reached_at = None
            get_logger().exception("sandbox pool did not beat", exc_info=exc)

    async def _begin_anew(self) -> None:
        await asyncio.gather(*(self._tenancies.lose(tenancy) for tenancy in self._tenancies.all()))
        self.id = f"pool-{secrets.token_hex(8)}"
        await self._registry.open_pool(self.id, self._node_id)

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """A backend that could not work may be mended: an engine be started, an image be fetched."""
        offered = {stock.profile.backend for stock in self._stocks.values()}
        for name in self._backends.keys() - offered:
            await self._take_in(name)

    def _watched(self) -> list[Tenancy]:
        return [tenancy for tenancy in self._tenancies.all() if tenancy.profile.backend in self._watchdogs]

    async def _end_overfull(self, tenancy: Tenancy) -> None:
        get_logger().warning("sandbox ended: more memory than it may have", sandbox_id=tenancy.row.id)
        await self._tenancies.lose(tenancy)


async def _ready(stock: Stock) -> Ready:
    """What a backend says of its machine is for the log, and not for whoever wants a sandbox."""
    try:
        return await stock.take()
    except UnenforceableError as exc:
        get_logger().error("profile cannot be enforced here", profile=stock.profile.id, reason=exc.message)
        raise UnenforceableError(
            f"No node can hold all limits of the profile {stock.profile.id}: `aether doctor` says why."
        ) from exc
    except AetherError as exc:
        get_logger().warning("sandbox did not start", profile=stock.profile.id, code=exc.code, reason=exc.message)
        raise UnavailableError("The sandbox did not start. Try again.") from exc
