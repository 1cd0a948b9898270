"""One of Ray's sandboxes as pools see it."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from actors.sandbox.base import Usage
from actors.sandbox.containers.processes import FirstProcess
from actors.sandbox.containers.threads import to_its_end
from actors.sandbox.ray.passed import PassedDoor
from serve_app.core.domain.ids import SandboxId
from serve_app.core.errors import AetherError


class Orders(Protocol):
    """What a running sandbox needs of `RayRuntime`."""

    def order(self, name: str, *arguments: str) -> str: ...

    def delete(self, name: str) -> None: ...


class RaySandbox:
    """`name` is Ray's. `supervisor` is the process on this side of the one inside, and ends with it."""

    def __init__(
        self,
        sandbox_id: SandboxId,
        runtime: Orders,
        name: str,
        folder: Path,
        door: PassedDoor,
        supervisor: asyncio.subprocess.Process,
        process: FirstProcess | None,
        gone: Callable[[SandboxId], None],
    ) -> None:
        self._id = sandbox_id
        self._runtime = runtime
        self._name = name
        self._folder = folder
        self._door = door
        self._supervisor = supervisor
        self._process = process
        self._gone = gone
        self._is_frozen = False
        self._destruction: asyncio.Task[None] | None = None

    @property
    def id(self) -> SandboxId:
        return self._id

    @property
    def door(self) -> Path:
        return self._door.path

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def wait(self) -> str:
        code = await self._supervisor.wait()
        return f"Its supervisor ended (exit code {code})."

    async def usage(self) -> Usage:
        return self._process.usage() if self._process else Usage(None, None, None)

    async def freeze(self) -> bool:
        await to_its_end(lambda: self._runtime.order(self._name, "pause", "{name}"))
        self._is_frozen = True
        return True

    async def thaw(self) -> None:
        if self._is_frozen:
            await to_its_end(lambda: self._runtime.order(self._name, "resume", "{name}"))
            self._is_frozen = False

    async def destroy(self) -> None:
        """Goes on to its end even when who asked for it is cancelled."""
        if self._destruction is None:
            self._destruction = asyncio.create_task(self._destroy(), name=f"destroy {self._id}")
        await asyncio.shield(self._destruction)

    async def _destroy(self) -> None:
        self._door.close()
        try:
            with suppress(AetherError):
                await self.thaw()
            await to_its_end(lambda: self._runtime.delete(self._name))
        finally:
            if self._supervisor.returncode is None:
                with suppress(ProcessLookupError):
                    self._supervisor.kill()
            await self._supervisor.wait()
            if self._process is not None:
                self._process.close()
                self._process = None
            await to_its_end(lambda: shutil.rmtree(self._folder, ignore_errors=True))
            self._gone(self._id)
