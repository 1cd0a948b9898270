"""One running container as pools see it."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from actors.sandbox.base import Usage
from actors.sandbox.containers.processes import FirstProcess
from actors.sandbox.containers.threads import to_its_end
from actors.sandbox.docker.dialled import DialledDoor
from actors.sandbox.docker.engine import ContainerState, Engine
from serve_app.core.domain.ids import SandboxId
from serve_app.core.errors import AetherError, NotFoundError, UnavailableError

_ASK_S, _REASON_S = 0.25, 1.0
_REMOVALS = 50
_REMOVAL_PAUSE_S = 0.1


class DockerSandbox:
    """`gone` is told when nothing of it is left. `process` is None where this process does not see the engine's. Destroying it twice does no harm."""

    def __init__(
        self,
        sandbox_id: SandboxId,
        engine: Engine,
        container: str,
        folder: Path,
        door: DialledDoor,
        process: FirstProcess | None,
        gone: Callable[[SandboxId], None],
    ) -> None:
        self._id = sandbox_id
        self._engine = engine
        self._container = container
        self._folder = folder
        self._door = door
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
        if self._process is None:
            return await self._stopped()
        await self._process.ended()
        try:
            async with asyncio.timeout(_REASON_S):
                return await self._stopped()
        except TimeoutError:
            # Of gVisor's sudden end the engine hears after ten seconds.
            return "Its first process ended."

    async def _stopped(self) -> str:
        while True:
            try:
                state = await self._engine.state(self._container)
            except NotFoundError:
                return "Its container was removed."
            except UnavailableError:
                # The engine restarts: what has become of the container will be known when it is back.
                state = None
            if state is not None and not state.is_running:
                return reason(state)
            await asyncio.sleep(_ASK_S)

    async def usage(self) -> Usage:
        if self._process is None:
            return Usage(None, None, None)
        return self._process.usage()

    async def freeze(self) -> bool:
        await self._engine.pause(self._container)
        self._is_frozen = True
        return True

    async def thaw(self) -> None:
        if self._is_frozen:
            await self._engine.unpause(self._container)
            self._is_frozen = False

    async def destroy(self) -> None:
        """Goes on to its end even when who asked for it is cancelled."""
        if self._destruction is None:
            self._destruction = asyncio.create_task(self._destroy(), name=f"destroy {self._id}")
        await asyncio.shield(self._destruction)

    async def _destroy(self) -> None:
        try:
            # gVisor hears of its end only when it runs: the engine would wait for ten seconds in vain.
            with suppress(AetherError):
                await self.thaw()
            await remove(self._engine, self._container)
        finally:
            self._door.close()
            if self._process is not None:
                self._process.close()
                self._process = None
            await to_its_end(lambda: shutil.rmtree(self._folder, ignore_errors=True))
            self._gone(self._id)


async def remove(engine: Engine, container: str) -> None:
    """Until it is gone. The engine refuses while it is removing it already, and now and then while it is busy."""
    for attempt in range(_REMOVALS):
        try:
            await engine.remove(container)
        except NotFoundError:
            return
        except UnavailableError:
            if attempt == _REMOVALS - 1:
                raise
        await asyncio.sleep(0 if attempt == 0 else _REMOVAL_PAUSE_S)
        with suppress(UnavailableError):
            try:
                await engine.state(container)
            except NotFoundError:
                return


def reason(state: ContainerState) -> str:
    """Why a container has ended, for people."""
    if state.was_out_of_memory:
        return "It used more memory than it may have."
    return f"Its supervisor ended (exit code {state.exit_code})."
