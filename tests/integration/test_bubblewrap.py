"""What bubblewrap sandboxes leave behind, survive and refuse on a real kernel."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from actors.sandbox.base import Means
from actors.sandbox.bubblewrap.backend import BubblewrapBackend
from actors.sandbox.bubblewrap.limits import Holds
from actors.sandbox.bubblewrap.machine import Machine, RunFolder, find_machine
from actors.sandbox.bubblewrap.program import bubblewrap_program
from configs.sandboxes import Profile
from serve_app.core.domain.ids import new_sandbox_id
from serve_app.core.errors import AetherError, UnavailableError, UnenforceableError
from tests.contract.sandbox_backends import Kind, bubblewrap

TOKEN = "0" * 32
CYCLES = 300


@pytest.fixture
async def kind(tmp_path: Path) -> AsyncIterator[Kind]:
    async with bubblewrap(tmp_path) as made:
        yield made


def spawners_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task")
    found = [int(child) for task in children.iterdir() for child in (task / "children").read_text().split()]
    return [one for one in found if "bubblewrap.spawner" in Path(f"/proc/{one}/cmdline").read_text()]


def groups_left(name: str) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line] + [
        str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{name}/sbx_*")
    ]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mounts_seen_below(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]


def sandboxes_alive() -> set[int]:
    found = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and "/opt/aether/supervisor" in (folder / "cmdline").read_text():
                found.add(int(folder.name))
    return found


async def test_hundreds_of_lives_leave_nothing(kind: Kind, tmp_path: Path) -> None:
    async def live() -> None:
        async with kind.running() as sandbox:
            await sandbox.client.start(["sh", "-c", "setsid sleep 100 & echo x > /work/x; sleep 100"])

    await asyncio.gather(*(live() for _ in range(10)))
    before = descriptors()
    for _ in range(CYCLES // 10):
        await asyncio.gather(*(live() for _ in range(10)))
    assert descriptors() == before
    assert not mounts_seen_below(tmp_path)
    assert not list((tmp_path / "boxes").iterdir())
    assert not groups_left(RunFolder(tmp_path).group_name)
    [spawner] = spawners_of(os.getpid())
    assert not Path(f"/proc/{spawner}/task/{spawner}/children").read_text()


async def test_when_the_spawner_is_killed_its_sandboxes_die_and_the_next_start_works(kind: Kind) -> None:
    one = await kind.backend.start(new_sandbox_id(), kind.profile_of(), TOKEN)
    [spawner] = spawners_of(os.getpid())
    os.kill(spawner, signal.SIGKILL)
    assert "from outside" in await asyncio.wait_for(one.wait(), 10)
    async with kind.running() as other:
        assert await other.says("echo ok") == "ok"
    await one.destroy()
    assert not one.door.exists()


async def test_when_the_pool_is_killed_its_sandboxes_die_and_a_sweep_clears_away(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from actors.sandbox.bubblewrap.backend import BubblewrapBackend
        from actors.sandbox.bubblewrap.program import bubblewrap_program
        from actors.sandbox.bubblewrap.machine import find_machine
        from configs.sandboxes import Profile
        from serve_app.core.domain.ids import new_sandbox_id

        async def main():
            backend = BubblewrapBackend(Path({str(tmp_path)!r}), lambda folder: find_machine(folder, bubblewrap_program()))
            profile = Profile.model_validate({{"id": "x", "limits": {{"disk": "1MiB"}}}})
            print([(await backend.start(new_sandbox_id(), profile, "0" * 32)).pid for _ in range(3)], flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
    """)
    pool = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert pool.stdout is not None
    pids = set(json.loads(await asyncio.wait_for(pool.stdout.readline(), 60)))
    assert pids <= sandboxes_alive()
    pool.kill()
    await pool.wait()
    async with asyncio.timeout(10):
        while pids & sandboxes_alive():
            await asyncio.sleep(0.02)
    backend = BubblewrapBackend(tmp_path, lambda folder: find_machine(folder, bubblewrap_program()))
    assert await backend.sweep() == 3
    assert await backend.sweep() == 0
    await backend.close()
    assert not groups_left(RunFolder(tmp_path).group_name)


async def test_whoever_destroys_again_waits_for_the_end_also_when_the_first_was_canceled(kind: Kind) -> None:
    sandbox = await kind.backend.start(new_sandbox_id(), kind.profile_of(), TOKEN)
    first = asyncio.create_task(sandbox.destroy())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert sandbox.door.parent.exists()
    await sandbox.destroy()
    assert not sandbox.door.parent.exists()


async def test_one_run_folder_is_for_one_pool(kind: Kind, tmp_path: Path) -> None:
    other = BubblewrapBackend(tmp_path, lambda folder: find_machine(folder, bubblewrap_program()))
    with pytest.raises(UnavailableError, match="Another sandbox pool"):
        await other.sweep()
    await other.close()


async def test_the_first_process_cannot_take_back_that_it_dies_with_the_spawner(kind: Kind) -> None:
    async with kind.running() as sandbox:
        code = (
            "import ctypes; libc = ctypes.CDLL(None); print([libc.prctl(1, signal, 0, 0, 0) for signal in (0, 18, 9)])"
        )
        assert (await sandbox.python(code)).stdout == b"[-1, -1, 0]\n"


async def test_the_kernel_s_other_doors_are_shut(kind: Kind) -> None:
    code = textwrap.dedent("""
        import ctypes, os, platform
        libc = ctypes.CDLL(None, use_errno=True)
        numbers = {"x86_64": dict(ptrace=101, mount=165, unshare=272, setns=308, bpf=321, keyctl=250, io_uring=425,
                                  userfaultfd=323, perf=298, clone3=435, memfd_secret=447, open_by_handle=304),
                   "aarch64": dict(ptrace=117, mount=40, unshare=97, setns=268, bpf=280, keyctl=219, io_uring=425,
                                   userfaultfd=282, perf=241, clone3=435, memfd_secret=447, open_by_handle=265)}
        for name, number in numbers[platform.machine()].items():
            result = libc.syscall(number, 0x10000000, 0, 0, 0, 0)
            print(name, result, ctypes.get_errno())
    """)
    async with kind.running() as sandbox:
        done = await sandbox.python(code)
        lines = [line.split() for line in done.stdout.decode().splitlines()]
        assert len(lines) == 12
        assert {(result, number) for _, result, number in lines} == {("-1", "1"), ("-1", "38")}


async def test_terminals_of_the_machine_are_not_one_sandbox_s(kind: Kind) -> None:
    code = textwrap.dedent("""
        import os
        opened = []
        try:
            while True: opened.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
        except OSError as exc:
            print(len(opened), exc.errno)
    """)
    async with kind.running() as sandbox:
        assert (await sandbox.python(code)).stdout == b"64 28\n"
        assert await sandbox.says("script -qec 'tty; echo yes > /dev/tty' /dev/null") == "/dev/pts/0\r\nyes"
        assert await sandbox.says("ls /dev") == (
            "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero"
        )
        assert (await sandbox.run("touch /dev/x")).exit_code != 0


async def test_what_waits_in_sockets_is_limited_too(kind: Kind) -> None:
    if await kind.means_of("memory") is not Means.CGROUP:
        pytest.skip("memory is looked at here, and buffers of TCP cannot be seen")
    code = textwrap.dedent("""
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        kept, total = [], 0
        for _ in range(60):
            near = socket.create_connection(server.getsockname())
            far, _ = server.accept()
            kept += [near, far]
            for one in (near, far):
                one.settimeout(0.02)
                try:
                    while True: total += one.send(bytes(1 << 18))
                except TimeoutError: pass
        print(total >> 20)
    """)
    async with kind.running(memory=64 * 1024**2, disk=16 * 1024**2) as sandbox:
        done = await sandbox.python(code)
        assert done.exit_code != 0 or int(done.stdout) < 80


async def test_programs_need_no_datagrams(kind: Kind) -> None:
    code = textwrap.dedent("""
        import asyncio, socket, uuid
        found = [one[4][0] for one in socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)]
        assert found[0] == "127.0.0.1" and set(found) <= {"127.0.0.1", "::1"}
        assert socket.getaddrinfo("localhost", 80, flags=socket.AI_ADDRCONFIG)
        assert socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
        assert socket.getfqdn() and socket.if_nameindex() and uuid.uuid1()
        async def main():
            server = await asyncio.start_server(lambda _, writer: writer.close(), "localhost", 8123)
            reader, writer = await asyncio.open_connection("localhost", 8123)
            assert await reader.read() == b""
            writer.close()
            server.close()
        asyncio.run(main())
        try:
            socket.getaddrinfo("example.org", 80)
        except socket.gaierror:
            pass
        try:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        except PermissionError:
            print("ok")
    """)
    async with kind.running() as sandbox:
        done = await sandbox.python(code)
        assert done.stdout == b"ok\n", done.stdout


async def test_packages_are_seen_and_more_can_be_added(kind: Kind) -> None:
    with_packages = Kind(kind.backend, {"packages": ["jsonschema"]})
    async with with_packages.running(memory=512 * 1024**2, disk=64 * 1024**2) as sandbox:
        assert await sandbox.says("python3 -c 'import jsonschema; print(jsonschema.__file__)'") == (
            "/opt/aether/python/jsonschema/__init__.py"
        )
        assert (await sandbox.run("python3 -c 'import structlog'")).exit_code != 0
        assert (await sandbox.run("python3 -m venv --without-pip /work/v && /work/v/bin/python -c ''")).exit_code == 0


async def test_a_limit_that_cannot_be_held_is_refused(tmp_path: Path) -> None:
    def without_groups(folder: RunFolder) -> Machine:
        return find_machine(folder, bubblewrap_program(), lambda _: Holds(None, "none here"))

    backend = BubblewrapBackend(tmp_path, without_groups)
    try:
        ability = await backend.ability()
        assert {one.limit: one.means for one in ability.limits}["memory"] is Means.WATCHDOG
        with pytest.raises(UnenforceableError):
            await backend.start(new_sandbox_id(), Profile.model_validate({"id": "x", "limits": {"cpu": 0.5}}), TOKEN)
        async with Kind(backend, {}).running(cpu=1) as sandbox:
            assert await sandbox.says("nproc") == "1"
            assert (await sandbox.python("import os; os.sched_setaffinity(0, range(64))")).exit_code != 0
            assert (await sandbox.python("import os; os.memfd_create('x')")).exit_code != 0
            used = await sandbox.started.usage()
            assert used.memory_bytes
            assert used.processes
    finally:
        await backend.close()


async def test_what_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "x" / "bin" / "bwrap"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho no namespaces today >&2\nexit 1\n")
    for path in (broken, broken.parent, broken.parents[1]):
        path.chmod(0o755)
    backend = BubblewrapBackend(tmp_path, lambda folder: find_machine(folder, broken))
    try:
        ability = await backend.ability()
        assert not ability.is_usable
        assert "no namespaces today" in ability.reason
        with pytest.raises(AetherError, match="aether doctor"):
            await backend.start(new_sandbox_id(), Profile(id="x"), TOKEN)
        assert not list((tmp_path / "boxes").iterdir())
    finally:
        await backend.close()


async def test_callers_learn_nothing_of_the_host_when_one_does_not_start(kind: Kind, tmp_path: Path) -> None:
    sandbox_id = new_sandbox_id()
    (tmp_path / "boxes" / sandbox_id).mkdir()
    with pytest.raises(UnavailableError) as caught:
        await kind.backend.start(sandbox_id, kind.profile_of(), TOKEN)
    assert caught.value.message == "The sandbox did not start. Try again."
