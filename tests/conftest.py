"""Fixtures every level shares: real servers from wheels, started once a run and only when a test asks."""

import asyncio
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.migrate import migrate
from serve_app.core.db.repositories.owners import OwnerRepository
from serve_app.core.domain.callers import Caller
from serve_app.core.services.callers import make_key
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.embedded.children import Child, Children
from serve_app.embedded.postgres import PostgresServer
from serve_app.embedded.valkey import ValkeyServer
from tests.seaweed import running_seaweedfs


@dataclass
class Server:
    """A running server; `child` changes when a test restarts it."""

    url: str
    child: Child
    server: PostgresServer | ValkeyServer

    async def kill_and_restart(self, away_s: float = 0.0) -> None:
        """`kill -9`, then what the supervisor does."""
        await self.child.end(signal.SIGKILL, grace_s=5.0)
        await asyncio.sleep(away_s)
        self.child = await self.server.start()


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A folder with a name short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def children() -> Children:
    return Children()


@pytest.fixture(scope="session")
async def postgres(short_dir: Path, children: Children) -> AsyncIterator[Server]:
    server = PostgresServer(
        data_dir=short_dir / "postgres", run_dir=short_dir, log_file=short_dir / "postgres.log", children=children
    )
    running = Server(server.url, await server.start(), server)
    await migrate(server.url)
    yield running
    await server.stop(running.child)


@pytest.fixture(scope="session")
async def valkey(short_dir: Path, children: Children) -> AsyncIterator[Server]:
    server = ValkeyServer(
        data_dir=short_dir / "valkey", run_dir=short_dir, log_file=short_dir / "valkey.log", children=children
    )
    running = Server(server.url, await server.start(), server)
    yield running
    await server.stop(running.child)


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 endpoint."""
    with running_seaweedfs(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


@pytest.fixture
async def database(postgres: Server) -> AsyncIterator[Database]:
    database = Database(postgres.url, pool_size=8)
    yield database
    await database.close()


@pytest.fixture
async def live(valkey: Server) -> AsyncIterator[RedisLiveEvents]:
    live = RedisLiveEvents(valkey.url)
    yield live
    await live.close()


@dataclass(frozen=True)
class Tenant:
    """An organisation of this test's own, and a key of its owner."""

    caller: Caller
    key: str


async def new_tenant(postgres: Server) -> Tenant:
    owners = OwnerRepository(postgres.url)
    name = secrets.token_hex(6)
    caller = await owners.add_organisation(name, f"{name}@example.org")
    key = make_key()
    await owners.add_key(caller, "test", key)
    return Tenant(caller, key.text)


@pytest.fixture
async def tenant(postgres: Server) -> Tenant:
    return await new_tenant(postgres)


@pytest.fixture
async def other_tenant(postgres: Server) -> Tenant:
    return await new_tenant(postgres)


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()
