"""Where sandboxes are measured: a front with a pool below it, here the pool in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actors.sandbox.backends import Backends
from actors.sandbox.base import SandboxBackend
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.front import Sandboxes
from actors.sandbox.pool import Pool
from configs.sandboxes import Profile, Profiles, load_profiles
from configs.settings import SandboxSettings, load_settings
from serve_app.core.db.engine import Database
from serve_app.core.db.migrate import migrate
from serve_app.core.db.repositories.owners import OwnerRepository
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import OrgId, SandboxId
from serve_app.core.domain.sandboxes import Snapshot
from serve_app.core.errors import UnavailableError
from serve_app.embedded.children import Children
from serve_app.embedded.postgres import PostgresServer
from tests.sandboxes import LocalPools, front_over, pool_over

WARM, MOST = 20, 256
QUOTA = 1000
"""Sandboxes an organisation may have: more than are ever asked for here."""


class Stocked(Protocol):
    """Tells how many sandboxes wait ready."""

    async def ready(self) -> int: ...


@dataclass(frozen=True)
class Ground:
    """A front that leases sandboxes of `profile` for `caller`."""

    front: Sandboxes
    stock: Stocked
    caller: Caller
    profile: Profile


@dataclass(frozen=True)
class LocalGround(Ground):
    """With what is below the front. All files of the pool are in `run_dir`."""

    pool: Pool
    backend: SandboxBackend
    run_dir: Path


def profiles_with(warm: int) -> Profiles:
    """The default profile as it is shipped, with a stock of this size.

    Without its packages: when first seen they are compiled beside everything else, for longer than this takes.
    """
    default = load_profiles().find(None)
    assert default is not None
    profile = default.model_copy(update={"warm": warm, "most": MOST, "packages": ()})
    return Profiles(default=profile.id, profiles=(profile,))


class _Unstored:
    """Workspaces nobody keeps: what is measured ends its sandboxes."""

    async def capture(
        self, client: SandboxClient, org_id: OrgId, sandbox_id: SandboxId, parent: Snapshot | None
    ) -> Snapshot:
        raise UnavailableError("Nothing is stored here.")

    async def restore(self, client: SandboxClient, snapshot: Snapshot) -> None:
        raise UnavailableError("Nothing is stored here.")


class _PoolStock:
    def __init__(self, pool: Pool, profile: str) -> None:
        self._pool, self._profile = pool, profile

    async def ready(self) -> int:
        return self._pool.capacity().rooms[self._profile].warm


@asynccontextmanager
async def local_database(folder: Path, connections: int = 8) -> AsyncIterator[tuple[Database, Caller]]:
    """A PostgreSQL of this run's own, as the platform starts it, and an organisation in it."""
    folder.mkdir(exist_ok=True)
    children = Children()
    server = PostgresServer(
        data_dir=folder / "postgres", run_dir=folder, log_file=folder / "postgres.log", children=children
    )
    child = await server.start()
    try:
        await migrate(server.url)
        caller = await OwnerRepository(server.url).add_organisation("bench", "bench@example.org")
        database = Database(server.url, pool_size=connections)
        yield database, caller
        await database.close()
    finally:
        await server.stop(child)
        children.close()


@asynccontextmanager
async def local_ground(folder: Path, database: Database, caller: Caller, warm: int) -> AsyncIterator[LocalGround]:
    """Everything but Ray in one event loop."""
    profiles = profiles_with(warm)
    profile = profiles.profiles[0]
    settings = load_settings().model_copy(
        update={"data_dir": folder / "data", "sandbox": SandboxSettings(run_dir=folder / "s")}
    )
    async with AsyncExitStack() as stack:
        backends = Backends(profiles, settings)
        stack.callback(backends.close)
        registry = SqlSandboxRepository(database, QUOTA)
        pool = pool_over(registry, _Unstored(), profiles, backends.by_name)
        stack.push_async_callback(pool.close)
        await pool.start()
        running = asyncio.create_task(pool.run(), name="sandbox pool")
        stack.push_async_callback(_end, running)
        front = front_over(registry, LocalPools({"node-1": pool}), profiles)
        await front.start()
        stack.push_async_callback(front.close)
        yield LocalGround(
            front, _PoolStock(pool, profile.id), caller, profile, pool, backends.by_name[profile.backend], folder / "s"
        )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
