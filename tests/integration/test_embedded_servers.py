"""The embedded servers: private, durable over `kill -9`, and able to run when root may not."""

import asyncio
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from serve_app.embedded import processes
from serve_app.embedded.children import Children
from serve_app.embedded.failures import StartError
from serve_app.embedded.keeper import Keeper, Server
from serve_app.embedded.postgres import PostgresServer
from serve_app.embedded.userns import Identity, nobody
from serve_app.embedded.valkey import ValkeyServer


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def own_children() -> AsyncIterator[Children]:
    children = Children()
    yield children
    children.close()


def _postgres(folder: Path, children: Children, identity: Identity | None = None) -> PostgresServer:
    return PostgresServer(
        data_dir=folder / "postgres",
        run_dir=folder,
        log_file=folder / "postgres.log",
        children=children,
        identity=identity,
    )


def _valkey(folder: Path, children: Children) -> ValkeyServer:
    return ValkeyServer(data_dir=folder / "valkey", run_dir=folder, log_file=folder / "valkey.log", children=children)


async def _until_back(keeper: Keeper) -> None:
    before = keeper.restarts
    assert keeper.child is not None
    keeper.child.send(signal.SIGKILL)
    async with asyncio.timeout(30):
        while keeper.restarts == before:
            await asyncio.sleep(0.02)


def _listening_inodes() -> set[str]:
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}


def _tcp_listeners(pid: int) -> list[str]:
    open_files = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return [name for name in open_files if name in _listening_inodes()]


async def test_postgres_keeps_what_it_acknowledged(folder: Path, own_children: Children) -> None:
    server = _postgres(folder, own_children)
    keeper = Keeper(server, lambda: None)
    await keeper.start()
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT current_database()") == "aether"
    assert await connection.fetchval("SHOW fsync") == "on"
    await connection.execute("CREATE ROLE aether_app NOLOGIN; CREATE TABLE kept (number int)")
    await connection.execute("INSERT INTO kept VALUES (42)")
    await _until_back(keeper)
    connection.terminate()
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT number FROM kept") == 42
    assert await connection.fetchval("SELECT lower('ÄÖ') COLLATE \"default\"") == "äö"
    await connection.close()
    assert keeper.child is not None
    assert _tcp_listeners(keeper.child.pid) == []
    files = [folder / "postgres", *(folder / "postgres").rglob("*")]
    assert {path.stat().st_uid for path in files} == {os.geteuid()}
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in files)
    await keeper.stop()
    assert not (folder / "postgres" / "postmaster.pid").exists()


async def test_valkey_keeps_what_it_wrote(folder: Path, own_children: Children) -> None:
    server = _valkey(folder, own_children)
    keeper = Keeper(server, lambda: None)
    await keeper.start()
    client = redis.asyncio.Redis.from_url(server.url)
    await client.set("kept", "yes")
    await asyncio.sleep(1.2)  # its file reaches the disk every second
    await client.aclose()
    await _until_back(keeper)
    client = redis.asyncio.Redis.from_url(server.url)
    assert await client.get("kept") == b"yes"
    assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
    await client.aclose()
    assert keeper.child is not None
    assert _tcp_listeners(keeper.child.pid) == []
    assert stat.S_IMODE((folder / "valkey.sock").stat().st_mode) == 0o700
    await keeper.stop()


@pytest.mark.parametrize("make", [_postgres, _valkey])
async def test_a_stopped_server_starts_again(folder: Path, own_children: Children, make: type[Server]) -> None:
    server: Server = make(folder, own_children)  # type: ignore[call-arg]  # two functions of one shape
    for _ in range(2):
        child = await server.start()
        await server.stop(child)
        assert child.returncode == 0


async def test_an_initialisation_that_was_cut_short_is_begun_anew(folder: Path, own_children: Children) -> None:
    half = folder / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server = _postgres(folder, own_children)
    child = await server.start()
    await server.stop(child)
    assert not half.exists()


async def test_a_lock_file_whose_pid_lives_again_is_no_obstacle(folder: Path, own_children: Children) -> None:
    server = _postgres(folder, own_children)
    child = await server.start()
    lock = (folder / "postgres" / "postmaster.pid").read_text()
    await server.stop(child)
    other = own_children.spawn(["sleep", "60"])
    (folder / "postgres" / "postmaster.pid").write_text(lock.replace(str(child.pid), str(other.pid), 1))
    child = await server.start()
    await server.stop(child)
    await other.end(signal.SIGKILL, grace_s=1)


async def test_files_of_another_postgres_are_refused(folder: Path, own_children: Children) -> None:
    (folder / "postgres").mkdir(mode=0o700)
    (folder / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(StartError, match="made by PostgreSQL 15"):
        await _postgres(folder, own_children).start()


async def test_a_broken_server_says_why(folder: Path, own_children: Children) -> None:
    server = _postgres(folder, own_children)
    await server.stop(await server.start())
    (folder / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(StartError, match="pg_control") as caught:
        await server.start()
    assert caught.value.mend == "aether logs postgres"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to be somebody else")
async def test_without_user_namespaces_root_uses_nobody(folder: Path, own_children: Children) -> None:
    identity = nobody()
    server = _postgres(folder, own_children, identity)
    child = await server.start()
    assert Path(f"/proc/{child.pid}").stat().st_uid == identity.user
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()
    await server.stop(child)
    assert stat.S_IMODE((folder / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.stat().st_mode) == 0o701
    assert processes.start_ticks(child.pid) is None
