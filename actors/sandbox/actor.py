"""The Ray shell of a node's sandbox pool. Ray restarts it when its process dies; what it held is then gone."""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.handles import NAMESPACE, remove_actor
from actors.sandbox.backends import Backends
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.door.relay import Relay
from actors.sandbox.egress.outlets import EgressOutlets
from actors.sandbox.housekeeping import forget_old_snapshots
from actors.sandbox.metering import SandboxMeters
from actors.sandbox.pool import Pool
from actors.sandbox.ports import Capacity, Held, Order
from actors.sandbox.snapshots.workspaces import StoredWorkspaces
from configs.sandboxes import Profiles
from configs.settings import Settings
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.connectors import SqlConnectorRepository
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.domain.addresses import Reach
from serve_app.core.domain.ids import LeaseId, SandboxId
from serve_app.core.domain.sandboxes import Lease, Snapshot
from serve_app.core.services.metering import Meter
from serve_app.core.services.sealing import Sealer
from serve_app.core.stores.limits.redis import RedisLimitStore
from serve_app.core.stores.objects.choose import choose_object_store
from serve_app.core.telemetry import configure_logs, configure_traces, get_logger
from serve_app.core.telemetry.ray_metrics import RayMetrics

RESOURCE = "aether_sandbox"
"""The custom resource that marks a node which may run sandboxes."""
_STOP_S = 60.0


def pool_name(node_id: str) -> str:
    return f"sandbox-pool-{node_id}"


class SandboxPoolActor:
    """Builds its collaborators and delegates to `Pool`. Needs complete settings (database, redis, secret)."""

    def __init__(
        self, node_id: str, settings: Settings, profiles: Profiles, on_start: tuple[Callable[[], None], ...] = ()
    ) -> None:
        for prepare in on_start:
            prepare()
        configure_logs(settings.telemetry.log_level, "sandbox-pool")
        configure_traces("sandbox-pool", settings.telemetry.otlp_endpoint)
        clock, metrics = SystemClock(), RayMetrics()
        self._database = Database(
            settings.database_url, settings.database.pool_size, settings.database.connect_timeout_s
        )
        self._objects = choose_object_store(settings.s3, settings.data_dir)
        self._limits = RedisLimitStore(settings.redis_url, f"sandboxes-{node_id[:16]}-{os.getpid()}")
        self._meter = Meter(self._limits, SqlLedgerRepository(self._database), metrics)
        connectors = SqlConnectorRepository(self._database, Sealer(settings.sealing_keys))
        self._outlets = EgressOutlets(
            profiles, connectors, metrics, clock, reach=Reach(refused=settings.sandbox.refused_networks)
        )
        self._backends = Backends(profiles, settings)
        self._rows = SqlSandboxRepository(
            self._database, settings.sandbox.per_organisation, settings.sandbox.stored_bytes_per_organisation
        )
        self._workspaces = StoredWorkspaces(
            self._objects, clock, most_bytes=max(profile.limits.disk for profile in profiles.profiles)
        )
        self._pool = Pool(
            node_id,
            profiles,
            self._backends.by_name,
            self._rows,
            self._workspaces,
            SandboxMeters(self._meter, SqlGatewayRepository(self._database), clock),
            self._outlets,
            clock,
            metrics,
            dial=lambda path, token, most: SandboxClient(dial_unix(str(path)), token, most_connections=most),
            free_memory=lambda: int(psutil.virtual_memory().available),
            on_use=self._backends.folder.mark,
            most_starting=2 * (os.cpu_count() or 1),
        )
        self._relay = Relay(self._pool.admits)
        self._ready = asyncio.Event()
        # Ray constructs an async actor inside its event loop.
        self._serving = asyncio.get_running_loop().create_task(self._serve(), name="sandbox pool")
        self._serving.add_done_callback(_die_unless_stopped)

    async def _serve(self) -> None:
        # A node that calls itself 127.0.0.1 is alone: nobody comes from another one.
        if (address := ray.util.get_node_ip_address()) != "127.0.0.1":
            self._pool.relay = await self._relay.start(address)
        await self._meter.start()
        await self._pool.start()
        self._ready.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pool.run(), name="sandbox pool")
            group.create_task(forget_old_snapshots(self._rows, self._workspaces), name="snapshots")

    async def lease(self, order: Order) -> Lease:
        await self._ready.wait()
        return await self._pool.lease(order)

    async def renew(self, held: Sequence[Held]) -> list[LeaseId]:
        await self._ready.wait()
        return await self._pool.renew(held)

    async def wake(self, held: Held) -> bool:
        await self._ready.wait()
        return await self._pool.wake(held)

    async def snapshot(self, held: Held) -> Snapshot:
        return await self._pool.snapshot(held)

    async def store(self, held: Held) -> Snapshot:
        return await self._pool.store(held)

    async def release(self, sandbox_id: SandboxId, fence: int) -> None:
        await self._pool.release(sandbox_id, fence)

    async def capacity(self) -> Capacity:
        await self._ready.wait()
        return self._pool.capacity()

    async def health(self) -> dict[str, int | str]:
        """`pid`, and how many sandboxes are leased."""
        await self._ready.wait()
        return {"pid": os.getpid(), "leased": self._pool.leased}

    async def stop(self) -> None:
        """Store every workspace, destroy every sandbox, close what is open."""
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        await self._relay.close()
        await self._pool.close()
        await self._outlets.close()
        self._backends.close()
        await self._meter.close()
        await self._limits.close()
        await self._objects.close()
        await self._database.close()


def _die_unless_stopped(serving: asyncio.Task[None]) -> None:
    if serving.cancelled() or serving.exception() is None:
        return
    get_logger().error("sandbox pool failed", exc_info=serving.exception())
    # A pool that tends to nothing any more must not look alive: Ray starts a new one.
    os._exit(1)


def find_pool(node_id: str) -> Any | None:
    """The pool of a node, if it has one."""
    try:
        return ray.get_actor(pool_name(node_id), NAMESPACE)
    except ValueError:
        return None


def start_pool(
    node_id: str, settings: Settings, profiles: Profiles, on_start: tuple[Callable[[], None], ...] = ()
) -> Any:
    """The pool of a node: the one that runs, or a new one. It outlives the process that asks."""
    make: Any = ray.remote
    remote = make(num_cpus=0, max_restarts=-1, max_concurrency=1000)(SandboxPoolActor)
    return remote.options(
        name=pool_name(node_id),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    ).remote(node_id, settings, profiles, on_start)


def start_pools(settings: Settings, profiles: Profiles, on_start: tuple[Callable[[], None], ...] = ()) -> list[Any]:
    """A pool on every marked node; one that runs there already stays (`remove_pools` ends those of other settings)."""
    return [start_pool(node_id, settings, profiles, on_start) for node_id in marked_nodes()]


def remove_pools() -> None:
    """End the pools of all nodes, workspaces stored."""
    for node_id in marked_nodes():
        remove_actor(pool_name(node_id), stop_s=_STOP_S)


def marked_nodes() -> set[str]:
    """The living nodes that may run sandboxes."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(RESOURCE)}
