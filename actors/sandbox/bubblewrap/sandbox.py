"""One sandbox that runs: watched by its first process's descriptor, killed through it, and cleared away."""

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from actors.sandbox.base import Usage
from actors.sandbox.bubblewrap.box import Box
from actors.sandbox.bubblewrap.processes import tree_usage
from actors.sandbox.bubblewrap.spawning import Spawned
from serve_app.core.domain.ids import SandboxId
from serve_app.core.telemetry import get_logger

_DEATH_TIMEOUT_S = 10.0
_REASON_TIMEOUT_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _REMOVE_TIMEOUT_S = 0.001, 0.1, 10.0


class BubblewrapSandbox:
    """`executor` runs what waits for the kernel; `discharge` is told once, when nothing of it is left."""

    def __init__(
        self, sandbox_id: SandboxId, box: Box, spawned: Spawned, executor: Executor, discharge: Callable[[], None]
    ) -> None:
        self._id = sandbox_id
        self._box = box
        self._spawned = spawned
        self._executor = executor
        self._discharge = discharge
        self._dead = asyncio.Event()
        self._reason = ""
        self._destruction: asyncio.Task[None] | None = None
        asyncio.get_running_loop().add_reader(spawned.pidfd, self._note_death)

    @property
    def id(self) -> SandboxId:
        return self._id

    @property
    def door(self) -> Path:
        return self._box.door

    @property
    def pid(self) -> int | None:
        return self._spawned.pid

    async def wait(self) -> str:
        await self._dead.wait()
        if not self._reason:
            self._reason = await self._find_reason()
        return self._reason

    async def usage(self) -> Usage:
        loop = asyncio.get_running_loop()
        group = self._box.group
        told = await loop.run_in_executor(self._executor, group.usage) if group else Usage(None, None, None)
        if None not in {told.memory_bytes, told.cpu_s, told.processes}:
            return told
        seen = await loop.run_in_executor(self._executor, tree_usage, self._spawned.pid)
        return Usage(
            seen.memory_bytes if told.memory_bytes is None else told.memory_bytes,
            seen.cpu_s if told.cpu_s is None else told.cpu_s,
            seen.processes if told.processes is None else told.processes,
        )

    async def freeze(self) -> bool:
        if not (group := self._box.group) or self._dead.is_set():
            return False
        return await asyncio.get_running_loop().run_in_executor(self._executor, group.freeze)

    async def thaw(self) -> None:
        if group := self._box.group:
            await asyncio.get_running_loop().run_in_executor(self._executor, group.thaw)

    async def destroy(self) -> None:
        if self._destruction is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._spawned.pidfd, signal.SIGKILL)
            self._destruction = asyncio.create_task(self._clear_away(), name=f"destroy {self._id}")
        # A canceled caller must not leave half of it, and whoever calls again waits for the same end.
        await asyncio.shield(self._destruction)

    async def _clear_away(self) -> None:
        # What is frozen does not die of a signal everywhere.
        await self.thaw()
        try:
            # The kernel ends the first process last: when it is gone, so is everything inside.
            await asyncio.wait_for(self._dead.wait(), _DEATH_TIMEOUT_S)
        except TimeoutError:
            get_logger().error("sandbox does not die", sandbox_id=self._id, pid=self._spawned.pid)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._spawned.ended), _REASON_TIMEOUT_S)
        # Its user id is somebody else's next: not while a process of it may live.
        is_gone = await remove_box(self._box, self._executor) and self._dead.is_set()
        asyncio.get_running_loop().remove_reader(self._spawned.pidfd)
        os.close(self._spawned.pidfd)
        self._dead.set()
        if is_gone:
            self._discharge()
        else:
            get_logger().error("sandbox not cleared away", sandbox_id=self._id, folder=str(self._box.folder))

    def _note_death(self) -> None:
        asyncio.get_running_loop().remove_reader(self._spawned.pidfd)
        self._dead.set()

    async def _find_reason(self) -> str:
        code: int | None = None
        with suppress(TimeoutError):
            code = await asyncio.wait_for(asyncio.shield(self._spawned.ended), _REASON_TIMEOUT_S)
        killed = self._box.group.killed_for_memory() if self._box.group else 0
        memory = "its memory limit was reached" if killed else ""
        how = "it was killed from outside" if code is None else _how_it_ended(code)
        return "; ".join(one for one in (how, memory, self._box.last_words()) if one)


def _how_it_ended(code: int) -> str:
    """bubblewrap passes on the exit code of the first process, and adds 128 to a signal's number."""
    number = -code if code < 0 else code - 128
    if number > 0:
        with suppress(ValueError):
            return f"its supervisor ended with {signal.Signals(number).name}"
    return f"its supervisor ended with exit code {code}"


async def remove_box(box: Box, executor: Executor) -> bool:
    """Kill what is left in its group and remove everything, as soon as the kernel lets us."""
    loop = asyncio.get_running_loop()
    pause_s, until = _FIRST_PAUSE_S, loop.time() + _REMOVE_TIMEOUT_S
    while not await loop.run_in_executor(executor, box.try_remove):
        if loop.time() > until:
            return False
        await loop.run_in_executor(executor, box.kill)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    return True
