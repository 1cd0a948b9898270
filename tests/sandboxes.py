"""Sandboxes in the test's own process: a real pool over a real backend, without Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from actors.sandbox.base import SandboxBackend
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_door, dial_unix
from actors.sandbox.front import Sandboxes
from actors.sandbox.pool import Pool
from actors.sandbox.ports import Held, Meterage, Meters, Order, Outlet, Outlets, Pools, Registry, Workspaces
from configs.sandboxes import BackendName, Profile, Profiles
from serve_app.core.clock import Clock, SystemClock
from serve_app.core.domain.ids import LeaseId, SandboxId
from serve_app.core.domain.sandboxes import Lease, Sandbox, Snapshot
from serve_app.core.errors import SandboxLostError
from serve_app.core.telemetry import NullMetrics

NODE = "node-1"


class FreeMeterage:
    """Charges nothing."""

    async def begin(self) -> None:
        """Nothing to reserve."""

    async def tick(self) -> None:
        """Nothing to settle."""

    async def end(self) -> None:
        """Nothing to settle."""


class FreeMeters:
    def of(self, sandbox: Sandbox, nanos_per_second: int) -> Meterage:
        return FreeMeterage()


class NoOutlets:
    def open(self, sandbox: Sandbox, client: SandboxClient) -> Outlet | None:
        return None


class LocalPools:
    """Pools of this process, one a node, as a Ray handle would show them."""

    def __init__(self, pools: Mapping[str, Pool], node_id: str = NODE) -> None:
        self.pools = dict(pools)
        self.node_id = node_id

    def _pool(self, node_id: str) -> Pool:
        if node_id not in self.pools:
            raise SandboxLostError("The sandbox's node has left the cluster.")
        return self.pools[node_id]

    async def lease(self, order: Order, prefer: str | None) -> Lease:
        return await self._pool(prefer if prefer in self.pools else next(iter(self.pools))).lease(order)

    async def renew(self, node_id: str, held: Sequence[Held]) -> list[LeaseId]:
        try:
            return await self._pool(node_id).renew(held)
        except SandboxLostError:
            return [one.lease_id for one in held]

    async def wake(self, node_id: str, held: Held) -> bool:
        return await self._pool(node_id).wake(held)

    async def snapshot(self, node_id: str, held: Held) -> Snapshot:
        return await self._pool(node_id).snapshot(held)

    async def store(self, node_id: str, held: Held) -> Snapshot:
        return await self._pool(node_id).store(held)

    async def release(self, node_id: str, sandbox_id: SandboxId, fence: int) -> None:
        if node_id in self.pools:
            await self._pool(node_id).release(sandbox_id, fence)


@dataclass
class RunningSandboxes:
    """What a test works with."""

    pool: Pool
    pools: LocalPools
    front: Sandboxes


def front_over(registry: Registry, pools: Pools, profiles: Profiles, clock: Clock | None = None) -> Sandboxes:
    return Sandboxes(
        registry, pools, profiles, clock or SystemClock(),
        dial=lambda door, sandbox_id, node: SandboxClient(dial_door(door, sandbox_id, node), door.token),
    )  # fmt: skip


def pool_over(
    registry: Registry,
    workspaces: Workspaces,
    profiles: Profiles,
    backends: Mapping[BackendName, SandboxBackend],
    *,
    meters: Meters | None = None,
    outlets: Outlets | None = None,
    node_id: str = NODE,
    clock: Clock | None = None,
) -> Pool:
    return Pool(
        node_id, profiles, backends, registry, workspaces, meters or FreeMeters(), outlets or NoOutlets(),
        clock or SystemClock(), NullMetrics(),
        dial=lambda path, token, most: SandboxClient(dial_unix(str(path)), token, most_connections=most),
        free_memory=lambda: int(psutil.virtual_memory().available),
    )  # fmt: skip


def profiles_of(*profiles: Profile) -> Profiles:
    return Profiles(default=profiles[0].id, profiles=profiles)
