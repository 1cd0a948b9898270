"""Sandboxes through Ray's own API, on a real gVisor."""

import asyncio
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import actors.sandbox.inside
from actors.sandbox.base import Means
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.ray.backend import RayBackend
from actors.sandbox.ray.handles import RayRuntime
from actors.sandbox.ray.needs import Needs, look, runsc_problem
from actors.sandbox.ray.sandbox import RaySandbox
from configs.sandboxes import Profile
from serve_app.core.domain.ids import new_sandbox_id
from serve_app.core.errors import SandboxLostError, UnavailableError, UnenforceableError
from tests.docker_engine import image_archive
from tests.gvisor import gvisor_tools, without

_INSIDE = Path(actors.sandbox.inside.__path__[0])


@pytest.fixture(scope="module")
def image() -> str:
    if os.geteuid() != 0:
        without("Tests of Ray's sandboxes make their image, and limit it, as root.")
    if shutil.which("debootstrap") is None and not Path("/usr/sbin/debootstrap").exists():
        without("Tests of Ray's sandboxes need debootstrap: run .ci/engine.")
    return str(image_archive())


@pytest.fixture(scope="module")
async def backend(image: str) -> AsyncIterator[RayBackend]:
    run_dir = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{gvisor_tools()}:{os.environ['PATH']}")
        backend = make_backend(image, run_dir)
        yield backend
        await backend.sweep()
        await backend.close()
    shutil.rmtree(run_dir)


def make_backend(image: str, run_dir: Path, needs: Needs | None = None) -> RayBackend:
    return RayBackend(
        RayRuntime(), owner=run_dir.name, image=image, run_dir=run_dir, supervisor=_INSIDE,
        needs=look if needs is None else lambda: needs,
    )  # fmt: skip


def profile(image: str) -> Profile:
    return Profile.model_validate({
        "id": "test", "backend": "ray", "image": image,
        "limits": {"memory": "128MiB", "disk": "32MiB", "inodes": 4000, "processes": 32},
    })  # fmt: skip


@asynccontextmanager
async def started(backend: RayBackend, image: str) -> AsyncIterator[tuple[RaySandbox, SandboxClient]]:
    token = secrets.token_hex(16)
    sandbox = await backend.start(new_sandbox_id(), profile(image), token)
    client = SandboxClient(dial_unix(str(sandbox.door)), token)
    try:
        yield sandbox, client
    finally:
        await client.close()
        await sandbox.destroy()


def left_over(backend: RayBackend) -> list[str]:
    """Processes of gVisor, and specifications, of this test's."""
    found = [
        name for name, spec in RayRuntime().specifications() if spec["annotations"].get("aether.pool") == backend._owner
    ]
    processes = subprocess.run(["pgrep", "-af", "runsc"], capture_output=True, text=True, check=False).stdout
    return found + [line for line in processes.splitlines() if any(name in line for name in found)]


async def test_all_limits_are_held_and_were_tried(backend: RayBackend) -> None:
    ability = await backend.ability()
    assert ability.is_usable, ability.reason
    assert ability.missing() == []
    held = {each.limit: each.means for each in ability.limits}
    assert (held["cpu"], held["memory"]) == (Means.CGROUP, Means.CGROUP)
    assert held["system_calls"] is Means.ENGINE


async def test_it_runs_programs_and_leaves_nothing(backend: RayBackend, image: str) -> None:
    async with started(backend, image) as (sandbox, client):
        done = await client.run("id -u; pwd; echo $HOME; grep -E 'Cap(Eff|Bnd)' /proc/self/status; ls /run/aether/door")
        uid, workspace, home, *capabilities = done.stdout.decode().splitlines()
        assert (uid, workspace, home) == ("1000", "/work", "/home/agent")
        assert all(int(line.split()[1], 16) == 0 for line in capabilities)
        assert len(capabilities) == 2
        full = await client.run(
            "head -c 100M /dev/zero > /work/full; stat -c %s /work/full; touch /usr/x || echo refused"
        )
        assert full.stdout.decode().split() == [str(16 * 1024 * 1024), "refused"]
        await asyncio.gather(*(client.run(["true"]) for _ in range(8)))
        assert (await sandbox.usage()).memory_bytes
        folder = sandbox.door.parent
        assert [path.name for path in (folder / "inside").iterdir()] == []
    assert not folder.exists()
    assert left_over(backend) == []
    assert not list(Path("/sys/fs/cgroup").glob(f"*/aether-{sandbox.id}"))


async def test_it_freezes_and_thaws(backend: RayBackend, image: str) -> None:
    async with started(backend, image) as (sandbox, client):
        assert await sandbox.freeze()
        call = asyncio.create_task(client.run(["echo", "awake"]))
        await asyncio.sleep(0.3)
        assert not call.done()
        await sandbox.thaw()
        assert (await call).stdout == b"awake\n"


async def test_the_end_of_its_supervisor_is_noticed(backend: RayBackend, image: str) -> None:
    async with started(backend, image) as (sandbox, client):
        watching = asyncio.create_task(sandbox.wait())
        await asyncio.sleep(0.05)
        assert not watching.done()
        # It is not the first process here, so a program may end it; that ends the sandbox and nothing else.
        killing = asyncio.create_task(client.run("kill -9 $(pgrep -o -f 'supervisor --passed')", timeout_s=5))
        async with asyncio.timeout(10):
            assert "supervisor ended" in await watching
        with pytest.raises(SandboxLostError):
            await killing


async def test_a_start_that_is_cancelled_leaves_nothing(backend: RayBackend, image: str) -> None:
    for delay_s in (0.0, 0.05, 0.25):
        starting = asyncio.create_task(backend.start(new_sandbox_id(), profile(image), "0" * 32))
        await asyncio.sleep(delay_s)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert left_over(backend) == []
    assert not any(backend._folders.iterdir())


async def test_a_sweep_removes_what_an_earlier_life_left(backend: RayBackend, image: str) -> None:
    left = await backend.start(new_sandbox_id(), profile(image), "0" * 32)
    successor = make_backend(image, backend._folders.parent)
    assert await successor.sweep() == 1
    assert await successor.sweep() == 0
    assert left_over(backend) == []
    async with asyncio.timeout(10):
        await left.wait()
    await left.destroy()
    backend._findings.clear()  # the successor removed what was compiled


async def test_without_control_groups_it_starts_nothing(backend: RayBackend, image: str, tmp_path: Path) -> None:
    rootless = make_backend(image, Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp")), Needs("", can_limit=False))
    ability = await rootless.ability()
    assert ability.is_usable, ability.reason
    assert [each.limit for each in ability.missing()] == ["cpu", "memory"]
    with pytest.raises(UnenforceableError, match="control groups"):
        await rootless.start(new_sandbox_id(), profile(image), "0" * 32)
    await rootless.sweep()
    shutil.rmtree(rootless._folders.parent)


async def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        backend = make_backend("none", tmp_path)
        ability = await backend.ability()
        assert not ability.is_usable
        assert "runsc" in ability.reason
        assert "mkfs.erofs" in ability.reason
        with pytest.raises(UnavailableError, match="runsc"):
            await backend.start(new_sandbox_id(), profile("none"), "0" * 32)


@pytest.mark.parametrize(
    ("version", "is_good"),
    [
        ("runsc version 0.0~20221219.0\nspec: 1.0.2-dev", False),
        ("runsc version 0.0~20240729.0\nspec: 1.2.0", True),
        ("runsc version release-20261012.0", True),
        ("not found", False),
    ],
)
def test_old_versions_of_gvisor_are_known(version: str, *, is_good: bool) -> None:
    assert (runsc_problem(version) == "") is is_good
