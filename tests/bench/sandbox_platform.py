"""The platform with its pool in a Ray actor, and what is measured on it, from a process that is a client of its Ray."""

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import ray
import yaml

from actors.handles import NAMESPACE
from actors.sandbox.actor import pool_name
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_door
from actors.sandbox.front import Sandboxes
from actors.sandbox.handles import RayPools
from actors.sandbox.ports import Capacity
from configs.sandboxes import load_profiles
from configs.settings import load_settings
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.owners import OwnerRepository
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from tests.bench.__main__ import start
from tests.bench.sandbox_grounds import QUOTA, WARM, Ground, profiles_with
from tests.bench.sandbox_measures import Leased, allow_many_descriptors, burst, in_event_loop, leases
from tests.e2e.conftest import Platform

_STUCK_S = 600
_SETTLE_S = 10
"""In which Ray starts workers for the program that has just connected, which a replica of the API does not make it do."""


@contextmanager
def platform_with_stock(folder: Path) -> Iterator[Platform]:
    """A platform whose default profile keeps `WARM` sandboxes ready."""
    profiles = folder / "profiles.yaml"
    profiles.write_text(yaml.safe_dump(profiles_with(WARM).model_dump(mode="json")))
    platform = start(folder, AETHER_SANDBOX_PROFILES=str(profiles), AETHER_SANDBOX_PER_ORGANISATION=str(QUOTA))
    try:
        yield platform
    finally:
        platform.aether("down", check=False)


def environment_of(platform: Platform) -> dict[str, str]:
    """What the platform's own processes were started with: where its servers are, and Ray's token."""
    [raylet] = [process for process in platform.processes() if process.name() == "raylet"]
    return dict(raylet.environ())


class _ActorStock:
    def __init__(self, node_id: str, profile: str) -> None:
        self._pool = ray.get_actor(pool_name(node_id), NAMESPACE)
        self._profile = profile

    async def ready(self) -> int:
        capacity: Capacity = await self._pool.capacity.remote()
        return capacity.rooms[self._profile].warm


@asynccontextmanager
async def platform_ground() -> AsyncIterator[Ground]:
    """In a process with the platform's environment: the front as a replica of the API has it."""
    settings = load_settings()
    assert settings.sandbox.profiles is not None
    profiles = load_profiles(settings.sandbox.profiles)
    ray.init(address=settings.ray.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
    caller = await OwnerRepository(settings.database_url).first_owner()
    assert caller is not None
    database = Database(settings.database_url, settings.database.pool_size)
    pools = RayPools(settings, profiles)
    front = Sandboxes(
        SqlSandboxRepository(database, settings.sandbox.per_organisation), pools, profiles, SystemClock(),
        dial=lambda door, sandbox_id, node: SandboxClient(dial_door(door, sandbox_id, node), door.token),
    )  # fmt: skip
    await pools.start()
    await front.start()
    try:
        yield Ground(front, _ActorStock(pools.node_id, profiles.default), caller, profiles.profiles[0])
    finally:
        await front.close()
        await pools.close()
        await database.close()


# --- what is measured on it ---


def measure_platform(platform: Platform, *, rounds: int, at_once: int) -> "PlatformFigures":
    """From a process of its own, because Ray takes what leads to a cluster from the environment it is loaded in."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(rounds), str(at_once)],
        env=environment_of(platform), stdout=subprocess.PIPE, text=True, check=False, timeout=_STUCK_S,
    )  # fmt: skip
    if done.returncode:
        sys.exit("what measures the platform's sandboxes failed")
    found = json.loads(done.stdout.splitlines()[-1])
    return PlatformFigures([Leased(**one) for one in found["leases"]], found["burst"], found["failures"])


@dataclass(frozen=True)
class PlatformFigures:
    """Leases one by one; seconds of those asked for at once, and what went wrong with them."""

    leases: list[Leased]
    burst: list[float]
    failures: list[str]


async def _measure(rounds: int, at_once: int) -> PlatformFigures:
    async with platform_ground() as ground:
        await asyncio.sleep(_SETTLE_S)
        found = await leases(ground, rounds)
        return PlatformFigures(found, *await burst(ground, at_once))


def requests(platform: Platform, count: int) -> list[float]:
    """Seconds from a request that makes a sandbox to the answer of one that runs a program in it, over HTTP."""
    found = []
    with platform.client() as client:
        for _ in range(count):
            time.sleep(0.3)  # until another one waits ready
            began = time.perf_counter()
            sandbox = client.post("/api/v1/sandboxes", json={}).raise_for_status().json()
            path = f"/api/v1/sandboxes/{sandbox['id']}"
            done = client.post(f"{path}/exec", json={"argv": ["echo", "ready"]}).raise_for_status().json()
            found.append(time.perf_counter() - began)
            assert done["exit_code"] == 0
            client.delete(path).raise_for_status()
    return found


if __name__ == "__main__":
    allow_many_descriptors()
    print(json.dumps(asdict(in_event_loop(_measure(int(sys.argv[1]), int(sys.argv[2]))))))
