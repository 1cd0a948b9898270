"""The backends the contract of sandboxes runs against, and what a test does in a sandbox."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import actors.sandbox.inside
from actors.sandbox.base import LimitName, Means, SandboxBackend, Started
from actors.sandbox.bubblewrap.backend import BubblewrapBackend
from actors.sandbox.bubblewrap.machine import find_machine
from actors.sandbox.bubblewrap.program import bubblewrap_program
from actors.sandbox.docker.backend import DockerBackend
from actors.sandbox.docker.container import GVISOR, RUNC, Runtime
from actors.sandbox.docker.engine import Engine
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.door.running import Completed
from actors.sandbox.ray.backend import RayBackend
from actors.sandbox.ray.handles import RayRuntime
from configs.sandboxes import Profile
from serve_app.core.clock import SystemClock
from serve_app.core.domain.ids import new_sandbox_id
from tests.docker_engine import image_archive, running_engine
from tests.gvisor import gvisor_tools, without

SUPERVISOR = Path(actors.sandbox.inside.__path__[0])


@dataclass(frozen=True)
class Kind:
    """One backend under test. `profile` is what its profiles need beside their limits."""

    backend: SandboxBackend
    profile: dict[str, Any]

    def profile_of(self, **limits: float) -> Profile:
        small = {"cpu": 1, "memory": 128 * 1024**2, "disk": 16 * 1024**2, "inodes": 2000, "processes": 48}
        return Profile.model_validate({"id": "small", "limits": small | limits, **self.profile})

    async def means_of(self, limit: LimitName) -> Means:
        return next(one.means for one in (await self.backend.ability()).limits if one.limit == limit)

    @asynccontextmanager
    async def running(self, **limits: float) -> AsyncIterator["Sandbox"]:
        token = secrets.token_hex(16)
        started = await self.backend.start(new_sandbox_id(), self.profile_of(**limits), token)
        client = SandboxClient(dial_unix(str(started.door)), token)
        try:
            yield Sandbox(started, client, token)
        finally:
            await client.close()
            await started.destroy()


@dataclass(frozen=True)
class Sandbox:
    started: Started
    client: SandboxClient
    token: str

    async def run(self, line: str, timeout_s: float = 30) -> Completed:
        return await self.client.run(line, timeout_s=timeout_s, merge=True)

    async def says(self, line: str) -> str:
        done = await self.run(line)
        return done.stdout.decode(errors="replace").strip()

    async def python(self, code: str, timeout_s: float = 30) -> Completed:
        return await self.client.run(["python3", "-c", code], timeout_s=timeout_s, merge=True)


@asynccontextmanager
async def bubblewrap(run_dir: Path) -> AsyncIterator[Kind]:
    backend = BubblewrapBackend(run_dir, lambda folder: find_machine(folder, bubblewrap_program()))
    await backend.sweep()
    ability = await backend.ability()
    if not ability.is_usable:
        await backend.close()
        pytest.fail(ability.reason)
    try:
        yield Kind(backend, {"backend": "bubblewrap"})
    finally:
        await backend.close()


@asynccontextmanager
async def docker(run_dir: Path, runtime: Runtime = RUNC) -> AsyncIterator[Kind]:
    with running_engine(run_dir) as engine:
        if runtime.name not in engine.runtimes:
            without(f"Docker has no runtime {runtime.name}.")
        backend = DockerBackend(
            Engine(engine.address), runtime, owner=secrets.token_hex(8), image=engine.image, run_dir=run_dir,
            supervisor=SUPERVISOR, clock=SystemClock(),
        )  # fmt: skip
        try:
            yield Kind(backend, {"backend": runtime.backend, "image": engine.image})
        finally:
            await backend.sweep()
            await backend.close()


@asynccontextmanager
async def gvisor(run_dir: Path) -> AsyncIterator[Kind]:
    async with docker(run_dir, GVISOR) as kind:
        yield kind


@asynccontextmanager
async def ray(run_dir: Path) -> AsyncIterator[Kind]:
    if os.geteuid() != 0:
        without("Ray's sandboxes have limits only for root.")
    image = str(image_archive())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{gvisor_tools()}:{os.environ['PATH']}")
        backend = RayBackend(
            RayRuntime(), owner=secrets.token_hex(8), image=image, run_dir=run_dir, supervisor=SUPERVISOR
        )
        try:
            yield Kind(backend, {"backend": "ray", "image": image})
        finally:
            await backend.sweep()
            await backend.close()


BACKENDS = {"bubblewrap": bubblewrap, "docker": docker, "gvisor": gvisor, "ray": ray}
"""By name: given a short folder, a backend that works. It fails or skips the test where there cannot be one."""
