"""One pool, or two with fronts before them, over a backend, rows and a clock of the test's."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.front import Sandboxes
from actors.sandbox.pool import Pool
from actors.sandbox.ports import Held, Order, Outlet
from configs.sandboxes import Profile
from serve_app.core.domain.ids import LeaseId, SandboxId
from serve_app.core.domain.sandboxes import Door, Lease, Sandbox, SandboxState, Service, Snapshot
from serve_app.core.errors import AetherError, UnavailableError
from serve_app.core.telemetry import NullMetrics
from tests.doubles.sandbox_rows import ManualClock, MemoryRegistry, MemoryWorkspaces, new_caller
from tests.doubles.sandboxes import ScriptedBackend, ScriptedClient, ScriptedMeters, ScriptedStarted, settled
from tests.sandboxes import LocalPools, NoOutlets, profiles_of

PROFILE = Profile(id="small", warm=1, most=8, idle_s=300, keep_s=600)
IDLE_S, KEEP_S, WALL_S, MOST = 300, 600, 86_400, 4


class RefusedOutlets:
    """Opens no way out, and raises `fails` while it is set."""

    def __init__(self) -> None:
        self.fails: Exception | None = None

    def open(self, sandbox: Sandbox, client: SandboxClient) -> Outlet | None:
        if self.fails:
            raise self.fails
        return None


class Node:
    """A pool with everything around it in a test's hands."""

    def __init__(
        self,
        name: str = "node-1",
        registry: MemoryRegistry | None = None,
        clock: ManualClock | None = None,
        warm: int = 1,
    ) -> None:
        self.clock = clock or ManualClock()
        self.registry = registry or MemoryRegistry(self.clock)
        self.backend = ScriptedBackend()
        self.workspaces = MemoryWorkspaces()
        self.meters = ScriptedMeters()
        self.outlets = RefusedOutlets()
        self.clients: list[tuple[Path, ScriptedClient]] = []
        self.used: list[bool] = []
        self.claims_fail: AetherError | None = None
        self.memory = 1 << 40
        self.caller = new_caller()
        profile = Profile(id="small", warm=warm, most=MOST, idle_s=IDLE_S, keep_s=KEEP_S, wall_s=WALL_S)
        self.pool = Pool(
            name, profiles_of(profile), {"bubblewrap": self.backend}, self.registry, self.workspaces, self.meters,
            self.outlets, self.clock, NullMetrics(), dial=self._dial, free_memory=lambda: self.memory,
            on_use=self.used.append,
        )  # fmt: skip

    def _dial(self, path: Path, token: str, most: int) -> SandboxClient:
        client = ScriptedClient()
        client.fails = self.claims_fail
        self.clients.append((path, client))
        return client

    async def new_row(self, *services: Service) -> Sandbox:
        row, _ = await self.registry.create(self.caller, "small", None, services)
        return row

    async def lease(self, row: Sandbox | None = None, snapshot: Snapshot | None = None) -> Lease:
        lease = await self.pool.lease(Order(row or await self.new_row(), snapshot))
        await settled()
        return lease

    def row(self, lease: Lease) -> Sandbox:
        return self.registry.rows[lease.sandbox_id]

    def client(self, lease: Lease) -> ScriptedClient:
        """The pool's own."""
        return next(client for path, client in self.clients if str(path) == lease.door.path)

    def started(self, lease: Lease) -> ScriptedStarted:
        return next(one for one in self.backend.all if str(one.door) == lease.door.path)

    async def passes(self, seconds: float) -> None:
        self.clock.passed_s += seconds
        self.pool.tend()
        await settled()

    async def asleep(self) -> Lease:
        lease = await self.lease()
        await self.passes(IDLE_S + 1)
        assert self.row(lease).state is SandboxState.FROZEN
        return lease

    async def stored(self) -> Sandbox:
        lease = await self.lease()
        await self.pool.store(held(lease))
        return self.row(lease)


def held(lease: Lease) -> Held:
    return Held(lease.id, lease.fence)


@asynccontextmanager
async def running_node() -> AsyncIterator[Node]:
    """A pool that has begun. When it ends nothing may be left of it."""
    node = Node()
    await node.pool.start()
    await settled()
    yield node
    node.registry.fails = node.workspaces.fails = None
    node.workspaces.gate.set()
    node.backend.gate.set()
    await node.pool.close()
    node.backend.check_left()
    assert node.meters.open == 0
    assert all(client.is_closed for _, client in node.clients)
    assert node.backend.is_closed


class FrailPools(LocalPools):
    """Pools whose nodes may not answer: each call to one of `silent` raises, and is counted all the same."""

    def __init__(self, pools: dict[str, Pool]) -> None:
        super().__init__(pools)
        self.silent: set[str] = set()
        self.before_lease: Callable[[], None] | None = None
        self.renewed: list[str] = []

    def _pool(self, node_id: str) -> Pool:
        if node_id in self.silent:
            raise UnavailableError("The sandbox's pool does not answer. Try again.")
        return super()._pool(node_id)

    async def lease(self, order: Order, prefer: str | None) -> Lease:
        if self.before_lease:
            self.before_lease()
        return await super().lease(order, prefer)

    async def renew(self, node_id: str, held: Sequence[Held]) -> list[LeaseId]:
        self.renewed.append(node_id)
        return await super().renew(node_id, held)


class World:
    """Two nodes with a pool each, and fronts."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = MemoryRegistry(self.clock)
        self.workspaces = MemoryWorkspaces()
        self.meters = ScriptedMeters()
        self.backends = {name: ScriptedBackend() for name in ("node-1", "node-2")}
        self.pools = FrailPools({name: self._make(name) for name in self.backends})
        self.dead: list[Pool] = []
        self.caller = new_caller()
        self.front, self.other = self.new_front(), self.new_front()

    def _make(self, name: str) -> Pool:
        return Pool(
            name, profiles_of(PROFILE), {"bubblewrap": self.backends[name]}, self.registry, self.workspaces,
            self.meters, NoOutlets(), self.clock, NullMetrics(), dial=lambda *_: ScriptedClient(),
            free_memory=lambda: 1 << 40,
        )  # fmt: skip

    def new_front(self) -> Sandboxes:
        return Sandboxes(self.registry, self.pools, profiles_of(PROFILE), self.clock, dial=self._dial)

    def _dial(self, door: Door, sandbox_id: SandboxId, node_id: str) -> SandboxClient:
        return ScriptedClient()

    def row(self, sandbox_id: SandboxId) -> Sandbox:
        return self.registry.rows[sandbox_id]

    async def restart(self, name: str) -> None:
        """The node's pool is dead to everybody, and another begins there."""
        self.dead.append(self.pools.pools[name])
        self.backends[name] = ScriptedBackend()
        self.pools.pools[name] = self._make(name)
        await self.pools.pools[name].start()
        await settled()

    async def passes(self, seconds: float) -> None:
        self.clock.passed_s += seconds
        for pool in self.pools.pools.values():
            pool.tend()
        await settled()

    async def client(self, sandbox: Sandbox, front: Sandboxes | None = None) -> ScriptedClient:
        found = await (front or self.front).client(self.caller, sandbox.id)
        assert isinstance(found, ScriptedClient)
        return found


@asynccontextmanager
async def running_world() -> AsyncIterator[World]:
    world = World()
    for pool in world.pools.pools.values():
        await pool.start()
    await settled()
    yield world
    world.registry.fails = None
    await world.front.close()
    await world.other.close()
    for pool in [*world.pools.pools.values(), *world.dead]:
        await pool.close()
