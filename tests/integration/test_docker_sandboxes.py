"""Sandboxes as containers of a real Docker engine, under runc and under gVisor."""

import asyncio
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import actors.sandbox.inside
from actors.sandbox.base import Means
from actors.sandbox.docker.backend import DockerBackend
from actors.sandbox.docker.container import GVISOR, RUNC, Runtime
from actors.sandbox.docker.engine import Engine
from actors.sandbox.docker.sandbox import DockerSandbox
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from configs.sandboxes import Profile
from serve_app.core.clock import SystemClock
from serve_app.core.domain.ids import new_sandbox_id
from serve_app.core.errors import MisconfiguredError, UnavailableError
from tests.docker_engine import DockerEngine, ask, running_engine
from tests.gvisor import without

_INSIDE = Path(actors.sandbox.inside.__path__[0])


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    folder = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    try:
        with running_engine(folder) as engine:
            yield engine
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_backend(engine: DockerEngine, runtime: Runtime, run_dir: Path, image: str | None = None) -> DockerBackend:
    if runtime.name not in engine.runtimes:
        without(f"Docker has no runtime {runtime.name}: run .ci/engine.")
    return DockerBackend(
        Engine(engine.address), runtime, owner=run_dir.name, image=image or engine.image, run_dir=run_dir,
        supervisor=_INSIDE, clock=SystemClock(),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[RUNC, GVISOR], ids=lambda runtime: runtime.backend)
async def backend(request: pytest.FixtureRequest, engine: DockerEngine) -> AsyncIterator[DockerBackend]:
    run_dir = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    backend = make_backend(engine, request.param, run_dir)
    yield backend
    await backend.sweep()
    await backend.close()
    shutil.rmtree(run_dir)


def profile(backend: DockerBackend, engine: DockerEngine, **limits: object) -> Profile:
    return Profile.model_validate({
        "id": "test", "backend": backend.name, "image": engine.image,
        "limits": {"memory": "128MiB", "disk": "32MiB", "inodes": 4000, "processes": 32, **limits},
    })  # fmt: skip


@asynccontextmanager
async def started(
    backend: DockerBackend, profile: Profile, token: str = "0" * 32
) -> AsyncIterator[tuple[DockerSandbox, SandboxClient]]:
    sandbox = await backend.start(new_sandbox_id(), profile, token)
    client = SandboxClient(dial_unix(str(sandbox.door)), token)
    try:
        yield sandbox, client
    finally:
        await client.close()
        await sandbox.destroy()


def containers(engine: DockerEngine, backend: DockerBackend) -> list[str]:
    found = ask(
        engine.address, "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label=aether.pool={backend._owner}"
    )
    return found.split()


async def test_all_limits_are_held_and_were_tried(backend: DockerBackend) -> None:
    ability = await backend.ability()
    assert ability.is_usable, ability.reason
    assert ability.missing() == []
    held = {each.limit: each.means for each in ability.limits}
    assert held.keys() == {
        "cpu", "memory", "disk", "inodes", "processes", "open_files", "network", "system_calls"
    }  # fmt: skip
    assert held["system_calls"] is (Means.SECCOMP if backend.name == "docker" else Means.ENGINE)


async def test_it_runs_programs_and_leaves_nothing(backend: DockerBackend, engine: DockerEngine) -> None:
    async with started(backend, profile(backend, engine)) as (sandbox, client):
        done = await client.run("id -u; pwd; echo $HOME; tr '\\0' ' ' </proc/1/cmdline")
        uid, workspace, home, command = done.stdout.decode().splitlines()
        assert (uid, workspace, home) == ("1000", "/work", "/home/agent")
        assert command.startswith("python3 -I -S -B /opt/aether/supervisor")
        await asyncio.gather(*(client.run(["true"]) for _ in range(12)))
        usage = await sandbox.usage()
        assert usage.memory_bytes
        assert usage.cpu_s
        assert sandbox.pid
        folder_of_sandbox = sandbox.door.parent
        assert folder_of_sandbox.is_dir()
    assert not folder_of_sandbox.exists()
    assert containers(engine, backend) == []


async def test_the_token_is_nowhere_to_be_read(backend: DockerBackend, engine: DockerEngine) -> None:
    token = secrets.token_hex(16)
    async with started(backend, profile(backend, engine), token) as (sandbox, client):
        assert token not in ask(engine.address, "inspect", *containers(engine, backend))
        looking = (
            "import pathlib,sys; token=sys.stdin.buffer.read()\n"
            "for path in (*pathlib.Path('/proc').glob('[0-9]*/*'), *pathlib.Path('/run').rglob('*')):\n"
            "    try: found = path.name in ('environ', 'cmdline', 'token') and token in path.read_bytes()\n"
            "    except OSError: continue\n"
            "    if found: print(path)\n"
        )
        found = await client.run(["python3", "-c", looking], stdin=token.encode())
        assert (found.exit_code, found.stdout, found.stderr) == (0, b"", b"")
        assert [path.name for path in (sandbox.door.parent / "inside").iterdir()] == ["dial"]


async def test_the_folders_are_full_at_the_limit_and_the_rest_is_read_only(
    backend: DockerBackend, engine: DockerEngine
) -> None:
    async with started(backend, profile(backend, engine)) as (_, client):
        done = await client.run(
            "head -c 100M /dev/zero > /work/full; stat -c %s /work/full; touch /usr/x || echo refused"
        )
        size, refused = done.stdout.decode().split()
        assert int(size) == 16 * 1024 * 1024
        assert refused == "refused"


async def test_a_frozen_sandbox_does_nothing_and_goes_on_when_thawed(
    backend: DockerBackend, engine: DockerEngine
) -> None:
    async with started(backend, profile(backend, engine)) as (sandbox, client):
        assert await sandbox.freeze()
        call = asyncio.create_task(client.run(["echo", "awake"]))
        await asyncio.sleep(0.3)
        assert not call.done()
        await sandbox.thaw()
        assert (await call).stdout == b"awake\n"
        await sandbox.freeze()
    assert containers(engine, backend) == []


async def test_a_sandbox_that_dies_is_noticed(backend: DockerBackend, engine: DockerEngine) -> None:
    async with started(backend, profile(backend, engine)) as (sandbox, _):
        watching = asyncio.create_task(sandbox.wait())
        await asyncio.sleep(0.1)
        assert not watching.done()
        ask(engine.address, "kill", *containers(engine, backend))
        async with asyncio.timeout(10):
            assert "137" in await watching


async def test_a_start_that_is_cancelled_leaves_nothing(backend: DockerBackend, engine: DockerEngine) -> None:
    for delay_s in (0.0, 0.01, 0.05, 0.1):
        starting = asyncio.create_task(backend.start(new_sandbox_id(), profile(backend, engine), "0" * 32))
        await asyncio.sleep(delay_s)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert containers(engine, backend) == []
    assert list(backend._folders.iterdir()) == []


async def test_a_sweep_removes_what_an_earlier_life_left(backend: DockerBackend, engine: DockerEngine) -> None:
    left = [await backend.start(new_sandbox_id(), profile(backend, engine), "0" * 32) for _ in range(2)]
    successor = make_backend(engine, backend._runtime, backend._folders.parent)
    assert await successor.sweep() == 2
    assert await successor.sweep() == 0
    assert containers(engine, backend) == []
    async with asyncio.timeout(10):
        await asyncio.gather(*(sandbox.wait() for sandbox in left))
    await asyncio.gather(*(sandbox.destroy() for sandbox in left))
    await successor.close()


async def test_programs_cannot_offer_themselves_as_the_supervisor(engine: DockerEngine) -> None:
    run_dir = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    backend = make_backend(engine, RUNC, run_dir)
    program = (
        "import socket,time\n"
        "held=[]\n"
        "for _ in range(40):\n"
        "    s=socket.socket(socket.AF_UNIX); s.connect('/run/aether/door/dial'); held.append(s)\n"
        "print(sum(not s.recv(1) for s in held))\n"
    )
    async with started(backend, profile(backend, engine)) as (_, client):
        assert (await client.run(["python3", "-c", program], timeout_s=20)).stdout == b"40\n"
        assert (await client.run(["true"])).exit_code == 0
    await backend.close()
    shutil.rmtree(run_dir)


async def test_sockets_hold_no_more_than_the_sandbox_may_have(engine: DockerEngine) -> None:
    run_dir = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    backend = make_backend(engine, RUNC, run_dir)
    program = (
        "import socket\n"
        "listener=socket.create_server(('127.0.0.1', 0)); held=[]; sent=0\n"
        "for _ in range(100):\n"
        "    one=socket.create_connection(listener.getsockname()); held+=[one,listener.accept()[0]]\n"
        "    one.setblocking(False)\n"
        "    try:\n"
        "        while True: sent+=one.send(bytes(1<<20))\n"
        "    except BlockingIOError: pass\n"
        "print(sent)\n"
    )
    async with started(backend, profile(backend, engine)) as (_, client):
        done = await client.run(["python3", "-c", program], timeout_s=30)
        assert done.exit_code != 0 or int(done.stdout) < 192 * 1024 * 1024
    await backend.close()
    shutil.rmtree(run_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may end what root's engine left")
async def test_a_start_that_fails_leaves_no_process(engine: DockerEngine) -> None:
    if GVISOR.name not in engine.runtimes:
        without(f"Docker has no runtime {GVISOR.name}: run .ci/engine.")
    mine = Engine(engine.address)
    container = await mine.create("aether-failing", {
        "Image": engine.image, "Entrypoint": ["/nowhere"], "HostConfig": {"Runtime": "runsc", "NetworkMode": "none"}
    })  # fmt: skip
    with pytest.raises(UnavailableError) as failed:
        await mine.start(container)
    # Its words name folders of the host.
    assert "/" not in failed.value.message
    await mine.remove(container)
    await mine.close()
    async with asyncio.timeout(10):
        while any(container in line for line in command_lines()):
            await asyncio.sleep(0.1)


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_text(errors="replace")


@pytest.mark.parametrize(
    ("change", "why"),
    [("VOLUME /data", "declares volumes"), ("ENV PATH=/nowhere", "no python3")],
    ids=["volume", "no python"],
)
async def test_an_image_that_cannot_be_used_is_told(engine: DockerEngine, change: str, why: str) -> None:
    name = f"aether-sandbox:{secrets.token_hex(4)}"
    base = ask(engine.address, "create", "--network=none", engine.image, "true").strip()
    ask(engine.address, "commit", "--change", change, base, name)
    ask(engine.address, "rm", base)
    run_dir = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    backend = make_backend(engine, RUNC, run_dir, image=name)
    ability = await backend.ability()
    assert not ability.is_usable
    assert why in ability.reason
    with pytest.raises(UnavailableError, match=why):
        await backend.start(new_sandbox_id(), profile(backend, engine), "0" * 32)
    with pytest.raises(MisconfiguredError):
        await backend._trials.ready(name)
    await backend.close()
    ask(engine.address, "rmi", name)
    shutil.rmtree(run_dir)


async def test_without_an_engine_it_says_so(tmp_path: Path, engine: DockerEngine) -> None:
    absent = DockerEngine("unix:///tmp/there-is-no-engine", json.dumps("x"), engine.runtimes)
    backend = make_backend(absent, RUNC, tmp_path)
    ability = await backend.ability()
    assert not ability.is_usable
    assert "does not answer" in ability.reason
    assert await backend.sweep() == 0
    await backend.close()
