"""Pools as Ray actors on two nodes of a real local cluster: placed, reached, killed, drained, and a node that leaves."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from actors.sandbox.actor import RESOURCE, find_pool, marked_nodes, remove_pools, start_pools
from actors.sandbox.front import Sandboxes
from actors.sandbox.handles import RayPools
from configs.sandboxes import Profile, Profiles
from configs.settings import Settings, load_settings
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.domain.sandboxes import EndReason, Sandbox, SandboxState
from serve_app.core.errors import AetherError, AtCapacityError, SandboxEndedError, UnavailableError
from tests.conftest import Server, Tenant
from tests.sandboxes import front_over, profiles_of

_LIMITS = {"cpu": 1, "memory": 256 * 1024**2, "disk": 32 * 1024**2, "inodes": 2000, "processes": 48}
SMALL = Profile.model_validate({"id": "small", "limits": _LIMITS, "warm": 1, "most": 2})


@dataclass
class Nodes:
    """A cluster, and what its pools are started with."""

    cluster: Any
    second: Any
    settings: Settings
    profiles: Profiles


@pytest.fixture(scope="module")
def nodes(postgres: Server, valkey: Server, short_dir: Path) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AETHER_DATABASE_URL", postgres.url)
        patch.setenv("AETHER_REDIS_URL", valkey.url)
        patch.setenv("AETHER_SECURITY_SECRET_KEY", "0123456789abcdef" * 4)
        patch.setenv("AETHER_DATA_DIR", str(short_dir / "data"))
        patch.setenv("AETHER_SANDBOX_RUN_DIR", str(short_dir))
        settings = load_settings()
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        options = {"num_cpus": 1, "resources": {RESOURCE: 1}, "object_store_memory": 80 * 1024**2}
        cluster: Any = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
        try:
            second = cluster.add_node(**options)
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
            yield Nodes(cluster, second, settings, profiles_of(SMALL))
        finally:
            remove_pools()
            ray.shutdown()
            cluster.shutdown()


class Reach:
    """A front over the cluster's pools, from the head's node."""

    def __init__(self, nodes: Nodes, database: Database, tenant: Tenant) -> None:
        self.nodes = nodes
        self.caller = tenant.caller
        self.rows = SqlSandboxRepository(database, 32)
        self.pools = RayPools(nodes.settings, nodes.profiles, join_s=0)
        self.front: Sandboxes = front_over(self.rows, self.pools, nodes.profiles)

    async def create(self) -> Sandbox:
        return await self.front.create(self.caller, None)

    async def says(self, sandbox: Sandbox, line: str) -> str:
        """As a caller who tries again where the error says that it helps."""
        async with asyncio.timeout(60):
            while True:
                try:
                    client = await self.front.client(self.caller, sandbox.id)
                    done = await client.run(line, timeout_s=20, merge=True)
                except AetherError as exc:
                    if not exc.retryable:
                        raise
                    await asyncio.sleep(0.1)
                else:
                    return done.stdout.decode().strip()

    async def row(self, sandbox: Sandbox) -> Sandbox:
        return await self.rows.get(self.caller.org_id, sandbox.id)

    def warm(self) -> int:
        return sum(one.rooms["small"].warm for one in self.pools._capacities.values() if "small" in one.rooms)

    async def health(self, node_id: str) -> dict[str, int]:
        pool = find_pool(node_id)
        assert pool is not None
        found: dict[str, int] = await pool.health.remote()
        return found


@pytest.fixture
async def reach(nodes: Nodes, database: Database, tenant: Tenant) -> AsyncIterator[Reach]:
    reach = Reach(nodes, database, tenant)
    await reach.pools.start()
    await reach.front.start()
    await until(lambda: has(reach.warm() >= 2))
    yield reach
    for row in await reach.rows.page(reach.caller.org_id, 100, None):
        await reach.front.delete(reach.caller, row.id)
    await reach.front.close()
    await reach.pools.close()


async def has(is_so: bool) -> bool:
    return is_so


async def until(is_so: Callable[[], Awaitable[bool]], limit_s: float = 60) -> None:
    async with asyncio.timeout(limit_s):
        while not await is_so():
            await asyncio.sleep(0.05)


def groups_of(sandbox: Sandbox) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/{sandbox.id}"))


def below(pid: int) -> set[int]:
    return {process.pid for process in psutil.Process(pid).children(recursive=True)}


async def test_sandboxes_are_placed_on_both_nodes_and_reached_from_one(reach: Reach) -> None:
    made = [await reach.create() for _ in range(4)]
    assert {sandbox.node_id for sandbox in made} == marked_nodes()
    doors = [sandbox.lease.door for sandbox in made if sandbox.lease]
    assert all(door.relay for door in doors), "a node that is not alone has a relay"
    said = await asyncio.gather(*(reach.says(sandbox, f"echo {number}") for number, sandbox in enumerate(made)))
    assert said == ["0", "1", "2", "3"]
    with pytest.raises(AtCapacityError):
        await reach.create()
    # Nobody comes through the relay without a lease.
    far = next(door for door in doors if door.node_id != reach.pools.node_id)
    assert far.relay is not None
    host, _, port = far.relay.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as stranger:
        stranger.sendall(f"AETHER-RELAY 1 {made[0].id} {'0' * 32}\n".encode())
        assert b"bad_hello" in await asyncio.to_thread(stranger.recv, 1000)


async def test_a_pool_that_is_killed_takes_its_sandboxes_along_and_is_back_soon(reach: Reach) -> None:
    kept = await reach.create()
    await reach.says(kept, "echo kept > /work/a.txt")
    await reach.front.snapshot(reach.caller, kept.id)
    lost = await reach.create()
    while (await reach.row(lost)).node_id != kept.node_id:
        lost = await reach.create()
    assert kept.node_id is not None
    pid = (await reach.health(kept.node_id))["pid"]
    processes, doors = below(pid), [one.lease.door.path for one in (kept, lost) if one.lease]
    running = asyncio.create_task((await reach.front.client(reach.caller, lost.id)).run("sleep 30"))
    await asyncio.sleep(0.2)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(UnavailableError) as told:
        await running
    assert told.value.retryable
    with pytest.raises(UnavailableError) as told:
        await reach.front.snapshot(reach.caller, lost.id)
    assert told.value.retryable
    # What its last snapshot has comes back by itself; what has none is lost, and told so.
    assert await reach.says(kept, "cat /work/a.txt") == "kept"
    with pytest.raises(SandboxEndedError) as ended:
        await reach.says(lost, "true")
    assert ended.value.details == {"reason": EndReason.LOST.value}
    new_pid = (await reach.health(kept.node_id))["pid"]
    assert new_pid != pid
    print(f"{time.monotonic() - began:.1f} s from the kill to a pool that serves again")
    await until(lambda: has(reach.warm() >= 1))
    # Of the old life nothing is left.
    assert not {one for one in processes if psutil.pid_exists(one)}
    assert not [door for door in doors if Path(door).parent.exists()]
    assert not groups_of(lost)


async def test_pools_that_stop_store_every_workspace(reach: Reach) -> None:
    made = [await reach.create() for _ in range(3)]
    for number, sandbox in enumerate(made):
        await reach.says(sandbox, f"echo {number} > /work/a.txt")
    pids = [(await reach.health(node_id))["pid"] for node_id in marked_nodes()]
    processes = set().union(*(below(pid) for pid in pids))
    await asyncio.to_thread(remove_pools)
    assert {(await reach.row(sandbox)).state for sandbox in made} == {SandboxState.STORED}
    assert not {one for one in processes if psutil.pid_exists(one)}
    assert not [group for sandbox in made for group in groups_of(sandbox)]
    # Nobody starts pools anew that somebody has stopped.
    await asyncio.sleep(3)
    assert all(find_pool(node_id) is None for node_id in marked_nodes())
    with pytest.raises(UnavailableError):
        await reach.front.client(reach.caller, made[0].id)
    await asyncio.to_thread(start_pools, reach.nodes.settings, reach.nodes.profiles)
    assert [await reach.says(sandbox, "cat /work/a.txt") for sandbox in made] == ["0", "1", "2"]


async def test_what_was_on_a_node_that_left_comes_back_elsewhere(reach: Reach) -> None:
    made = [await reach.create() for _ in range(3)]
    far = next(sandbox for sandbox in made if sandbox.node_id != reach.pools.node_id)
    await reach.says(far, "echo kept > /work/a.txt")
    await reach.front.snapshot(reach.caller, far.id)
    for sandbox in made:
        if sandbox.node_id == reach.pools.node_id:
            await reach.front.delete(reach.caller, sandbox.id)
    assert far.node_id is not None
    pid = (await reach.health(far.node_id))["pid"]
    processes = {pid} | below(pid)
    await asyncio.to_thread(reach.nodes.cluster.remove_node, reach.nodes.second, allow_graceful=False)
    await until(lambda: has(not any(psutil.pid_exists(one) for one in processes)))
    assert await reach.says(far, "cat /work/a.txt") == "kept"
    assert (await reach.row(far)).node_id == reach.pools.node_id
