"""The bubblewrap backend: sandboxes as processes of this node's own kernel, without an engine or a daemon."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from actors.sandbox.base import Ability
from actors.sandbox.bubblewrap.ability import NAME, find_ability
from actors.sandbox.bubblewrap.arguments import bubblewrap_arguments
from actors.sandbox.bubblewrap.box import LONGEST_DOOR_BYTES, Box, door_of, make_box, recorded_groups
from actors.sandbox.bubblewrap.cgroups import kill_members, remove_folders
from actors.sandbox.bubblewrap.image import Image
from actors.sandbox.bubblewrap.limits import Holds
from actors.sandbox.bubblewrap.machine import Machine, RunFolder
from actors.sandbox.bubblewrap.sandbox import BubblewrapSandbox, remove_box
from actors.sandbox.bubblewrap.spawner import Order
from actors.sandbox.bubblewrap.spawners import Spawners
from actors.sandbox.bubblewrap.spawning import NotStartedError, Spawned, Spawning
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from configs.sandboxes import Limits, Profile
from serve_app.core.domain.ids import SandboxId, new_sandbox_id
from serve_app.core.errors import AetherError, MisconfiguredError, UnavailableError
from serve_app.core.telemetry import get_logger

_THREADS = 4
_OOM_SCORE = 300
"""The kernel, out of memory, ends a sandbox before it ends the platform."""
_ANSWER_TIMEOUT_S = 20.0
_SWEEP_ROUNDS, _SWEEP_PAUSE_S = 100, 0.05
_PROBE_TOKEN = "0" * 32
_PROBE = Profile.model_validate({"id": "probe", "limits": {"memory": 64 * 1024**2, "disk": 1024**2, "processes": 32}})


class BubblewrapBackend:
    """`run_dir` is this pool's own, with a short name; what earlier lives left is found there by `sweep`.

    `find_machine` looks at the machine; a test gives one that finds less.
    """

    def __init__(
        self, run_dir: Path, find_machine: Callable[[RunFolder], Machine], *, most_starting: int | None = None
    ) -> None:
        self._folder = RunFolder(run_dir)
        self._find_machine = find_machine
        self._executor = ThreadPoolExecutor(_THREADS, NAME)
        self._spawners = Spawners(self._executor)
        # They compute; one more than there are cores fills the gaps, and others only make each of them slower.
        self._starting = asyncio.Semaphore(most_starting or (os.cpu_count() or 1) + 1)
        self._preparing = asyncio.Lock()
        self._machine: Machine | None = None
        self._judging = asyncio.Lock()
        self._ability: Ability | None = None
        self._disables_user_namespaces = True
        self._running: dict[SandboxId, BubblewrapSandbox] = {}
        self._tasks: set[asyncio.Task[BubblewrapSandbox] | asyncio.Task[None]] = set()
        self._turn = 0
        self._is_closed = False

    @property
    def name(self) -> str:
        return NAME

    async def ability(self) -> Ability:
        async with self._judging:
            if self._ability is None or not self._ability.is_usable:
                self._ability = await find_ability(self._find_holds, self._try)
            return self._ability

    async def start(self, sandbox_id: SandboxId, profile: Profile, token: str) -> BubblewrapSandbox:
        if self._is_closed:
            raise UnavailableError("This node's sandbox backend is closed. Try again.")
        ability = self._ability or await self.ability()
        if not ability.is_usable:
            raise UnavailableError("This node cannot start bubblewrap sandboxes; `aether doctor` says why.")
        # Runs to its end even when the caller is canceled: half a sandbox cannot be cleared away, a whole one can.
        task = asyncio.create_task(self._start(sandbox_id, profile, token), name=f"start {sandbox_id}")
        self._own(task)
        try:
            return await asyncio.shield(task)
        except NotStartedError as exc:
            get_logger().error("sandbox did not start", sandbox_id=sandbox_id, reason=str(exc))
            raise UnavailableError("The sandbox did not start. Try again.") from exc
        except asyncio.CancelledError:
            self._own(asyncio.create_task(_abandon(task), name=f"abandon {sandbox_id}"))
            raise

    async def sweep(self) -> int:
        """The processes of a pool that was killed die with it; this removes their groups and files, and is no harm else."""
        machine = await self._prepare()
        places = machine.holds.groups.places if machine.holds.groups else frozenset()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._sweep_now, places)

    async def close(self) -> None:
        self._is_closed = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(sandbox.destroy() for sandbox in list(self._running.values())))
        await self._spawners.close()
        if self._machine and self._machine.holds.groups:
            self._machine.holds.groups.close()
        self._executor.shutdown()
        self._folder.leave()

    # --- starting ---

    def _own(self, task: asyncio.Task[BubblewrapSandbox] | asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, sandbox_id: SandboxId, profile: Profile, token: str) -> BubblewrapSandbox:
        machine = await self._prepare()
        if len(os.fsencode(door_of(self._folder.boxes / sandbox_id))) > LONGEST_DOOR_BYTES:
            raise MisconfiguredError(f"The folder {self._folder.boxes} has too long a name for sockets in it.")
        async with self._starting:
            image, spawning = await self._spawners.find(machine, profile.packages)
            self._turn += 1
            cpus = machine.holds.cpus(profile.limits, self._turn)
            uid = machine.identities.take()
            try:
                box = await self._make_box(machine, sandbox_id, profile.limits, uid, token)
            except BaseException:
                machine.identities.give_back(uid)
                raise
            order = self._order(machine, image, sandbox_id, profile, uid, cpus)
            try:
                spawned = await _spawn(spawning, order, box)
            except BaseException:
                if await remove_box(box, self._executor):
                    machine.identities.give_back(uid)
                raise

            def discharge() -> None:
                machine.identities.give_back(uid)
                self._running.pop(sandbox_id, None)

            sandbox = BubblewrapSandbox(sandbox_id, box, spawned, self._executor, discharge)
            self._running[sandbox_id] = sandbox
            try:
                await _until_it_answers(sandbox, token)
            except BaseException:
                await sandbox.destroy()
                raise
            return sandbox

    async def _make_box(
        self, machine: Machine, sandbox_id: SandboxId, limits: Limits, uid: int | None, token: str
    ) -> Box:
        quota = machine.holds.quota(limits)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._executor, make_box, self._folder.boxes, sandbox_id, machine.holds.groups, quota, uid, token
            )
        except OSError as exc:
            raise NotStartedError(f"The sandbox did not start: {exc}.") from exc

    def _order(
        self,
        machine: Machine,
        image: Image,
        sandbox_id: SandboxId,
        profile: Profile,
        uid: int | None,
        cpus: list[int] | None,
    ) -> Order:
        limits, holds = profile.limits, machine.holds
        return Order(
            id=sandbox_id,
            uid=uid,
            size_bytes=limits.disk,
            inodes=holds.inodes(limits),
            processes=holds.processes(limits),
            limits=holds.rlimits(limits),
            cpus=cpus,
            oom_score=_OOM_SCORE,
            seeds=list(image.seeds),
            argv=bubblewrap_arguments(
                image,
                has_egress=profile.has_way_out,
                disables_user_namespaces=self._disables_user_namespaces,
                hidden=machine.hidden,
            ),
            env=image.environment,
        )

    # --- what the machine can do ---

    async def _prepare(self) -> Machine:
        async with self._preparing:
            if self._machine is None:
                loop = asyncio.get_running_loop()
                self._machine = await loop.run_in_executor(self._executor, self._find_machine, self._folder)
            return self._machine

    async def _find_holds(self) -> Holds:
        return (await self._prepare()).holds

    async def _try(self) -> None:
        try:
            sandbox = await self._start(new_sandbox_id(), _PROBE, _PROBE_TOKEN)
        except (AetherError, NotStartedError):
            if not self._disables_user_namespaces:
                raise
            # Not to be had where /proc/sys cannot be written; the filter refuses new namespaces as well.
            self._disables_user_namespaces = False
            sandbox = await self._start(new_sandbox_id(), _PROBE, _PROBE_TOKEN)
        await sandbox.destroy()

    def _sweep_now(self, places: frozenset[Path]) -> int:
        """`places` are this life's own; those of an earlier life may have been elsewhere, and go."""
        swept = 0
        for folder in [one for one in self._folder.boxes.iterdir() if one.name not in self._running]:
            groups = recorded_groups(folder)
            for _ in range(_SWEEP_ROUNDS):
                kill_members(groups)
                if remove_folders(groups):
                    remove_folders({group.parent for group in groups} - places)
                    shutil.rmtree(folder, ignore_errors=True)
                    swept += 1
                    break
                time.sleep(_SWEEP_PAUSE_S)
        return swept


async def _spawn(spawning: Spawning, order: Order, box: Box) -> Spawned:
    try:
        return await spawning.spawn(order, box.descriptors())
    except NotStartedError as exc:
        raise NotStartedError(f"The sandbox did not start: {box.last_words() or exc}.") from exc
    finally:
        box.hand_over()


async def _until_it_answers(sandbox: BubblewrapSandbox, token: str) -> None:
    client = SandboxClient(dial_unix(str(sandbox.door)), token, answer_timeout_s=_ANSWER_TIMEOUT_S)
    answer = asyncio.create_task(client.ping())
    death = asyncio.create_task(sandbox.wait())
    try:
        await asyncio.wait([answer, death], return_when=asyncio.FIRST_COMPLETED)
        if answer.done() and not answer.exception():
            return
        reason = death.result() if death.done() else str(answer.exception())
        raise NotStartedError(f"The sandbox did not start: {reason}.")
    finally:
        answer.cancel()
        death.cancel()
        await asyncio.gather(answer, death, return_exceptions=True)
        await client.close()


async def _abandon(task: asyncio.Task[BubblewrapSandbox]) -> None:
    """Destroy what nobody waits for any more, as soon as it has started."""
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        await task.result().destroy()
