"""The port of sandbox backends: what every way of isolating must do, tried from inside."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest

from actors.sandbox.base import LimitName, Means
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from serve_app.core.domain.ids import new_sandbox_id
from serve_app.core.errors import SandboxLostError
from tests.contract.sandbox_backends import BACKENDS, Kind, Sandbox


@pytest.fixture(scope="module", params=BACKENDS)
async def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kind]:
    async with BACKENDS[request.param](tmp_path_factory.mktemp("sbx")) as made:
        yield made


@pytest.fixture(scope="module")
async def sandbox(kind: Kind) -> AsyncIterator[Sandbox]:
    """One that tests share which leave it as they found it."""
    async with kind.running() as running:
        yield running


async def test_ability_tells_how_each_limit_is_held(kind: Kind) -> None:
    ability = await kind.backend.ability()
    assert ability.is_usable
    assert ability.backend == kind.backend.name
    assert sorted(one.limit for one in ability.limits) == sorted(get_args(LimitName))
    assert all(one.note for one in ability.limits if one.means in {Means.NOTHING, Means.WATCHDOG})


async def test_it_answers_when_started_and_only_to_its_token(sandbox: Sandbox) -> None:
    assert (await sandbox.client.ping()).connections >= 1
    stranger = SandboxClient(dial_unix(str(sandbox.started.door)), "0" * 32)
    with pytest.raises(SandboxLostError):
        await stranger.ping()
    await stranger.close()


async def test_the_door_is_closed_to_other_users(sandbox: Sandbox) -> None:
    door = sandbox.started.door
    assert door.is_socket()
    closed = [path for path in [door, *door.parents] if path.stat().st_mode & 0o007 == 0]
    assert closed, "some folder on the way, or the door itself, must keep others out"


async def test_programs_run_as_an_ordinary_user_in_their_own_folders(sandbox: Sandbox) -> None:
    assert await sandbox.says("id -u; id -g; pwd; echo $HOME; umask") == "1000\n1000\n/work\n/home/agent\n0022"
    assert (
        await sandbox.says("for d in /work /tmp /home/agent; do echo a > $d/a && cat $d/a; rm $d/a; done") == "a\na\na"
    )
    status = await sandbox.says("cat /proc/self/status")
    assert {line.split()[1] for line in status.splitlines() if line.startswith("Cap")} == {"0" * 16}
    # gVisor keeps to it and does not tell.
    assert "NoNewPrivs:\t1" in status or "NoNewPrivs" not in status


async def test_the_system_is_read_only_and_the_host_is_not_there(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for path in ("/x", "/usr/x", "/etc/x", "/opt/x", "/dev/x"):
        assert (await sandbox.run(f"touch {path}")).exit_code != 0, path
    assert (await sandbox.run(f"cat {tmp_path}/secret")).exit_code != 0
    assert await sandbox.says("ls /home") == "agent"


async def test_other_processes_are_not_seen(sandbox: Sandbox) -> None:
    seen = await sandbox.says("for p in /proc/[0-9]*; do readlink $p/exe; done; ls -d /proc/[0-9]* | wc -l")
    assert int(seen.splitlines()[-1]) < 20


async def test_there_is_no_network(sandbox: Sandbox) -> None:
    code = (
        "import socket\n"
        "for address in ('1.1.1.1', '10.0.0.1', '169.254.169.254'):\n"
        "    try: socket.create_connection((address, 80), 2)\n"
        "    except OSError: print('refused')\n"
        "print(sorted(name for _, name in socket.if_nameindex()))\n"
    )
    done = await sandbox.python(code)
    *refusals, interfaces = done.stdout.decode().splitlines()
    assert refusals == ["refused"] * 3
    assert "eth" not in interfaces


async def test_its_own_loopback_works(sandbox: Sandbox) -> None:
    code = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname())\n"
        "s.accept()[0].sendall(b'x'); print(c.recv(1))\n"
    )
    assert (await sandbox.python(code)).stdout == b"b'x'\n"


async def test_disk_and_inodes_are_limited(kind: Kind) -> None:
    async with kind.running() as sandbox:
        assert "No space left" in await sandbox.says("head -c 40M /dev/zero > /work/big; ls")
        assert int(await sandbox.says("stat -c %s /work/big")) <= 16 * 1024**2
        if await kind.means_of("inodes") is not Means.MOUNT:
            return
        assert "No space left" in await sandbox.says(
            "rm /work/big; for i in $(seq 3000); do : > /tmp/$i || break; done"
        )


async def test_memory_is_limited_and_the_sandbox_lives_on(kind: Kind) -> None:
    async with kind.running() as sandbox:
        asking = sandbox.python("x = bytearray(400 * 1024**2); print('had it')")
        if await kind.means_of("system_calls") is Means.ENGINE:
            # Its kernel is one process of the host's, and goes as a whole.
            with pytest.raises(SandboxLostError):
                await asking
            return
        done = await asking
        assert b"had it" not in done.stdout
        assert await sandbox.says("echo alive") == "alive"


async def test_processes_are_limited(kind: Kind) -> None:
    async with kind.running() as sandbox:
        code = (
            "import os, time\n"
            "n = 0\n"
            "try:\n"
            "    while n < 500:\n"
            "        if os.fork() == 0: time.sleep(30); os._exit(0)\n"
            "        n += 1\n"
            "except OSError as e: print(n)\n"
        )
        done = await sandbox.python(code)
        assert 0 < int(done.stdout) <= 48


async def test_open_files_are_limited_for_good(kind: Kind) -> None:
    async with kind.running(open_files=64) as sandbox:
        assert await sandbox.says("ulimit -n; ulimit -Hn") == "64\n64"
        assert (await sandbox.run("ulimit -Hn 128")).exit_code != 0


async def test_processor_time_is_limited(kind: Kind) -> None:
    async with kind.running() as sandbox:
        before, began = await sandbox.started.usage(), time.monotonic()
        await sandbox.run("for i in 1 2 3 4; do timeout 1 sh -c 'while :; do :; done' & done; wait")
        after, took_s = await sandbox.started.usage(), time.monotonic() - began
        if before.cpu_s is not None and after.cpu_s is not None:
            assert after.cpu_s - before.cpu_s < took_s * 1.3 + 0.3


async def test_usage_tells_of_what_runs(sandbox: Sandbox) -> None:
    used = await sandbox.started.usage()
    assert used.memory_bytes is None or 0 < used.memory_bytes < 144 * 1024**2
    assert used.processes is None or used.processes > 0


async def test_what_is_frozen_does_not_run(kind: Kind) -> None:
    async with kind.running() as sandbox:
        ticking = "while :; do date +%s%N > /work/tick.new; mv /work/tick.new /work/tick; sleep 0.02; done"
        await sandbox.client.start(["sh", "-c", ticking])
        await sandbox.says("while [ ! -e /work/tick ]; do sleep 0.05; done")
        if not await sandbox.started.freeze():
            return
        await asyncio.sleep(0.5)
        thawed_at = time.time_ns()
        await sandbox.started.thaw()
        last = int(await sandbox.says("cat /work/tick"))
        assert last < thawed_at - 400_000_000 or last >= thawed_at
        await asyncio.sleep(0.3)
        assert int(await sandbox.says("cat /work/tick")) > thawed_at


async def test_a_frozen_one_can_be_destroyed(kind: Kind) -> None:
    async with kind.running() as sandbox:
        await sandbox.started.freeze()
        door = sandbox.started.door
    assert not door.exists()


async def test_its_death_is_noticed(kind: Kind) -> None:
    async with kind.running() as sandbox:
        waiting = asyncio.create_task(sandbox.started.wait())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        if sandbox.started.pid is None:
            waiting.cancel()
            return
        os.kill(sandbox.started.pid, 9)
        assert await asyncio.wait_for(waiting, 10)
        with pytest.raises(SandboxLostError):
            await sandbox.run("true")


async def test_destroying_leaves_nothing_and_takes_children_along(kind: Kind) -> None:
    async with kind.running() as sandbox:
        await sandbox.client.start(
            ["sh", "-c", "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' & sleep 100"]
        )
        started = sandbox.started
    assert not started.door.exists()
    if started.pid is not None:
        assert not Path(f"/proc/{started.pid}").exists()


async def test_two_sandboxes_are_strangers(kind: Kind) -> None:
    async with kind.running() as one, kind.running() as other:
        await one.run("echo secret > /tmp/x; echo secret > /dev/shm/x; echo secret > /work/x")
        assert await other.says("ls /tmp /work /dev/shm | grep x") == ""


async def test_a_start_nobody_waits_for_is_cleared_away(kind: Kind) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for delay_s in (0.0, 0.002, 0.01, 0.03):
        task = asyncio.create_task(kind.backend.start(new_sandbox_id(), kind.profile_of(), "0" * 32))
        await asyncio.sleep(delay_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(20):
        while len(list(Path("/proc/self/fd").iterdir())) > before:
            await asyncio.sleep(0.05)


async def test_many_start_at_once(kind: Kind) -> None:
    async def one() -> str:
        async with kind.running() as sandbox:
            return await sandbox.says("echo ok")

    assert await asyncio.gather(*(one() for _ in range(6))) == ["ok"] * 6


async def test_a_sweep_leaves_alone_what_runs(kind: Kind) -> None:
    async with kind.running() as sandbox:
        assert await kind.backend.sweep() == 0
        assert await sandbox.says("echo alive") == "alive"
