"""Starts sandboxes as containers of a Docker engine on the same machine."""

import asyncio
from contextlib import suppress
from pathlib import Path

from actors.sandbox.base import Ability
from actors.sandbox.containers.entry import START_S, ask, make_folder
from actors.sandbox.containers.judging import judge
from actors.sandbox.containers.places import DIAL_NAME, DOOR, SUPERVISOR, TOKEN_NAME, launch
from actors.sandbox.containers.processes import FirstProcess
from actors.sandbox.containers.threads import remove_folders, to_its_end
from actors.sandbox.docker.ability import claims, unreachable, unusable
from actors.sandbox.docker.container import OWNER_LABEL, SANDBOX_LABEL, Bind, Runtime, describe
from actors.sandbox.docker.dialled import DialledDoor
from actors.sandbox.docker.engine import Engine
from actors.sandbox.docker.sandbox import DockerSandbox, reason, remove
from actors.sandbox.docker.trials import Ready, Trials
from configs.sandboxes import Profile
from serve_app.core.clock import Clock
from serve_app.core.domain.ids import SandboxId
from serve_app.core.errors import AetherError, MisconfiguredError, UnavailableError, UnenforceableError

_LOOK_S = 0.1


class DockerBackend:
    """Docker with runc, or with gVisor. `owner` names this pool's place over all its lives: what carries it is swept.

    `image` is one its profiles use, in which `ability` tries the limits. `run_dir` must be of mode 0700 and its path
    short. `supervisor` is the folder of the program that runs inside.
    """

    def __init__(
        self,
        engine: Engine,
        runtime: Runtime,
        *,
        owner: str,
        image: str,
        run_dir: Path,
        supervisor: Path,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._runtime = runtime
        self._owner = owner
        self._image = image
        self._folders = run_dir / "boxes"
        self._clock = clock
        self._trials = Trials(
            engine,
            runtime,
            owner=owner,
            folder=run_dir / "images",
            supervisor=supervisor,
            clock=clock,
        )
        self._ability: Ability | None = None
        self._learning = asyncio.Lock()
        self._alive: set[str] = set()

    @property
    def name(self) -> str:
        return self._runtime.backend

    async def ability(self) -> Ability:
        async with self._learning:
            if self._ability is None:
                try:
                    self._ability = await self._learn()
                except MisconfiguredError as exc:
                    self._ability = Ability(self.name, is_usable=False, reason=exc.message, limits=())
                except UnavailableError as exc:
                    # Not remembered: the engine may be started, or the image be fetched, at any time.
                    return Ability(self.name, is_usable=False, reason=exc.message, limits=())
            return self._ability

    async def _learn(self) -> Ability:
        facts = await self._engine.facts()
        why = unusable(facts, self._runtime)
        if not why:
            ready = await self._trials.ready(self._image)
            why = unreachable(ready.findings, self._runtime)
            if not why:
                return Ability(
                    self.name, is_usable=True, reason="", limits=judge(claims(facts, self._runtime), ready.findings)
                )
        return Ability(self.name, is_usable=False, reason=why, limits=())

    async def start(self, sandbox_id: SandboxId, profile: Profile, token: str) -> DockerSandbox:
        ability = await self.ability()
        if not ability.is_usable:
            raise UnavailableError(f"No sandbox can be started with {self.name} here: {ability.reason}")
        if missing := ability.missing():
            raise UnenforceableError(
                f"{self.name} cannot hold these limits on this machine: "
                + ", ".join(f"{each.limit} ({each.note})" for each in missing),
                limits=[each.limit for each in missing],
            )
        ready = await self._trials.ready(profile.image or self._image)
        folder = self._folders / sandbox_id
        doors = folder / "inside"
        door = DialledDoor(folder / "door", doors / DIAL_NAME)
        container = f"aether-{sandbox_id}"
        process = None
        self._alive.add(sandbox_id)
        try:
            await to_its_end(lambda: make_folder(doors, token))
            door.open()
            container_id = await self._engine.create(container, self._describe(sandbox_id, profile, ready, doors))
            await self._engine.start(container_id)
            state = await self._engine.state(container_id)
            process = FirstProcess.find(state.pid, container_id)
            self._limit_sockets(process, profile, ready)
            # Under gVisor it is the sandbox's own file server that dials, whoever asks for it inside.
            door.trust(process.pid if process and not self._runtime.is_gvisor else None)
            await self._answer(container_id, door.path, token)
            (doors / TOKEN_NAME).unlink()
        except BaseException:
            sandbox = DockerSandbox(sandbox_id, self._engine, container, folder, door, process, self._alive.discard)
            with suppress(AetherError):
                await sandbox.destroy()
            raise
        return DockerSandbox(sandbox_id, self._engine, container_id, folder, door, process, self._alive.discard)

    def _describe(self, sandbox_id: SandboxId, profile: Profile, ready: Ready, doors: Path) -> dict[str, object]:
        return describe(
            ready.image_id,
            self._runtime,
            profile.limits,
            launch(f"--dial {DOOR}/{DIAL_NAME}" + (" --egress" if profile.has_way_out else "")),
            (Bind(ready.findings.supervisor, SUPERVISOR), Bind(doors, DOOR)),
            {OWNER_LABEL: self._owner, SANDBOX_LABEL: sandbox_id},
        )

    def _limit_sockets(self, process: FirstProcess | None, profile: Profile, ready: Ready) -> None:
        if self._runtime.is_gvisor or ready.facts.counts_sockets:
            return
        if process is None or not process.limit_tcp(profile.limits):
            raise UnavailableError("The sandbox did not start: what its sockets hold could not be limited. Try again.")

    async def _answer(self, container: str, door: Path, token: str) -> None:
        """Until the supervisor answers, the container ends, or it takes too long."""
        asking = asyncio.create_task(ask(door, token))
        try:
            async with asyncio.timeout(START_S):
                while not asking.done():
                    await asyncio.wait([asking], timeout=_LOOK_S)
                    if not asking.done() and not (state := await self._engine.state(container)).is_running:
                        raise UnavailableError(f"The sandbox ended while it started. {reason(state)}")
                await asking
        except TimeoutError as exc:
            raise UnavailableError(f"The sandbox's supervisor did not answer within {START_S:.0f} seconds.") from exc
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError, AetherError):
                await asking

    async def sweep(self) -> int:
        try:
            found = await self._engine.labelled(OWNER_LABEL, self._owner)
        except UnavailableError:
            return 0  # Without an engine nothing of ours runs.
        left = [container for container, labels in found.items() if labels.get(SANDBOX_LABEL) not in self._alive]
        await asyncio.gather(*(remove(self._engine, container) for container in left))
        await to_its_end(lambda: remove_folders(self._folders, keep=self._alive))
        await self._trials.sweep()
        return len(left)

    async def close(self) -> None:
        await self._engine.close()
