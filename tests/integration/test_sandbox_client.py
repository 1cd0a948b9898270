"""The client with the real supervisor: what each of the two promises the other."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.door.running import ExecRequest, Output, Started
from serve_app.core.errors import (
    ConflictError,
    EditConflictError,
    NoSuchFileError,
    NotFoundError,
    NotTextError,
    SandboxLostError,
    SandboxPathError,
)
from tests.unit.actors.sandbox.inside.peer import TOKEN, RunningSupervisor


@pytest.fixture
def supervisor() -> Iterator[RunningSupervisor]:
    supervisor = RunningSupervisor()
    yield supervisor
    supervisor.close()


@pytest.fixture
async def client(supervisor: RunningSupervisor) -> AsyncIterator[SandboxClient]:
    client = SandboxClient(dial_unix(supervisor.door), TOKEN, answer_timeout_s=20)
    yield client
    assert not client.is_lost
    await client.close()


async def test_programs_run(client: SandboxClient) -> None:
    done = await client.run("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 3)
    done = await client.run(["cat"], stdin=bytes(range(256)) * 20_000, output_bytes=10_000_000)
    assert done.stdout == bytes(range(256)) * 20_000
    done = await client.run(["head", "-c", "100000", "/dev/zero"], output_bytes=1000)
    assert (len(done.stdout), done.cut) == (1000, True)
    done = await client.run(["sleep", "60"], timeout_s=0.1)
    assert done.timed_out
    with pytest.raises(NoSuchFileError):
        await client.run(["no-such-program-anywhere"])
    done = await client.run('echo "$A" "$PWD"', env={"A": "é"}, cwd="/tmp", merge=True)
    assert done.stdout.startswith("é /".encode())


async def test_a_program_that_reads_nothing_leaves_the_connection_usable(client: SandboxClient) -> None:
    for _ in range(5):
        assert (await client.run(["true"], stdin=bytes(3_000_000))).exit_code == 0
        assert (await client.run(["echo", "x"])).stdout == b"x\n"


async def test_leaving_kills_and_signals_arrive(client: SandboxClient, supervisor: RunningSupervisor) -> None:
    script = "trap 'touch hup' HUP; touch ready; while :; do sleep 0.01; done"
    async with client.exec(ExecRequest(argv=["sh", "-c", script])) as running:
        assert isinstance(await anext(running), Started)
        while not (supervisor.roots["work"] / "ready").exists():
            await asyncio.sleep(0.01)
        running.signal(1)
        while not (supervisor.roots["work"] / "hup").exists():
            await asyncio.sleep(0.01)
        running.cancel()
        assert (await running.wait()).exit_code is None
    async with client.exec(ExecRequest(argv=["sleep", "61"])) as running:
        await anext(running)
    while any(process.argv == ("sleep", "61") for process in await client.processes()):
        await asyncio.sleep(0.01)


async def test_detached_programs_go_on(client: SandboxClient) -> None:
    started = await client.start("echo begun; sleep 0.2; echo done; exit 4")
    assert started.pid in {process.pid for process in await client.processes()}
    async with client.attach(started.process, follow=True) as attached:
        out = b"".join([piece.data async for piece in attached])
        assert out == b"begun\ndone\n"
        assert attached.result is not None
        assert attached.result.exit_code == 4
    endless = await client.start(["sleep", "62"])
    await client.kill(endless.process)
    with pytest.raises(NotFoundError):
        await client.kill("p999")


async def test_files(client: SandboxClient) -> None:
    name = os.fsdecode(b"caf\xc3\xa9 \xff")
    assert await client.write(f"deep/er/{name}", b"one two") == 7
    assert await client.read_bytes(f"deep/er/{name}", max_bytes=100) == b"one two"
    assert await client.read_bytes(f"deep/er/{name}", max_bytes=3, offset=4) == b"two"
    await client.write("deep/er/log", b"1", append=True)
    assert await client.write("deep/er/log", b"2", append=True) == 2
    with pytest.raises(ConflictError):
        await client.write("deep/er/log", b"", exclusive=True)
    assert await client.edit("deep/er/log", "12", "34") == 1
    with pytest.raises(EditConflictError):
        await client.edit("deep/er/log", "12", "34")
    await client.write("binary", b"\xff\xfe")
    with pytest.raises(NotTextError):
        await client.edit("binary", "a", "b")
    async with client.list(".", depth=9) as entries:
        assert {entry.path for entry in [one async for one in entries]} >= {"deep", f"deep/er/{name}"}
    assert (await client.stat("deep/er/log")).size == 2
    await client.move("deep/er/log", "log")
    await client.mkdir("made/here")
    await client.delete("deep", recursive=True)
    with pytest.raises(NoSuchFileError):
        await client.stat("deep")
    for path in ("/etc/passwd", "../../x", "/proc/self/environ"):
        with pytest.raises(SandboxPathError):
            await client.read_bytes(path, max_bytes=10)


async def test_archives_go_from_one_folder_to_another(client: SandboxClient) -> None:
    await client.write("from/a/b", b"content")
    await client.mkdir("to")
    async with client.tar("from") as archive:
        pieces = [piece async for piece in archive]

    async def again() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    assert await client.untar(again(), "to") == 1
    assert await client.read_bytes("to/a/b", max_bytes=100) == b"content"


async def test_ports_are_reached(client: SandboxClient) -> None:
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "c = s.accept()[0]; data = b''\n"
        "while piece := c.recv(65536): data += piece\n"
        "c.sendall(data[::-1]); c.close()"
    )
    async with client.exec(ExecRequest(argv=["python3", "-c", program])) as running:
        await anext(running)
        told = await anext(running)
        assert isinstance(told, Output)
        port = int(told.data)
        assert port in {one.port for one in await client.ports()}
        async with await client.tunnel(port) as tunnel:
            await tunnel.write(b"abc" * 100_000)
            tunnel.end()
            got = b""
            while piece := await tunnel.read(10):
                got += piece
            assert got == b"cba" * 100_000
    with pytest.raises(ConflictError):
        await client.tunnel(1)


async def test_a_claim_puts_the_older_holder_out(client: SandboxClient, supervisor: RunningSupervisor) -> None:
    older = SandboxClient(dial_unix(supervisor.door), TOKEN, answer_timeout_s=20)
    await older.ping()
    await client.claim("f" * 32)
    assert (await client.ping()).connections >= 1
    assert (await client.usage()).processes >= 0
    with pytest.raises(SandboxLostError):
        await older.ping()
    assert older.is_lost
    await older.close()


async def test_freezing_and_thawing(client: SandboxClient) -> None:
    async with client.exec(ExecRequest(shell="for i in 1 2 3 4 5 6; do echo $i; sleep 0.05; done")) as running:  # noqa: S604 - the sandbox's shell
        await anext(running)
        await client.freeze()
        assert (await client.ping()).uptime_s >= 0
        await client.thaw()
        assert (await running.wait()).exit_code == 0


async def test_an_answer_that_is_left_unread_is_not_the_next_ones(client: SandboxClient) -> None:
    await client.write("x", b"content")
    for _ in range(5):
        async with client.read("x") as reading:
            await anext(reading)
            await asyncio.sleep(0.02)
            assert reading.is_over
        assert (await client.stat("x")).size == 7
