"""Makes an image ready for sandboxes: finds it, has it compile the supervisor, and tries in it what the engine holds."""

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from actors.sandbox.containers.places import DIAL_NAME, DOOR
from actors.sandbox.containers.processes import FirstProcess
from actors.sandbox.containers.threads import remove_folders, to_its_end
from actors.sandbox.containers.trial import LIMITS, TRIAL_S, Bench, Findings, no_python
from actors.sandbox.docker.container import OWNER_LABEL, Bind, Runtime, describe
from actors.sandbox.docker.dialled import DialledDoor
from actors.sandbox.docker.engine import Engine, EngineFacts, Image
from serve_app.core.clock import Clock
from serve_app.core.errors import MisconfiguredError, NotFoundError, UnavailableError
from serve_app.core.telemetry import get_logger

_LOOK_S = 0.05


@dataclass(frozen=True)
class Ready:
    """An image sandboxes can be started from. The id stays the same when its tag moves on."""

    image_id: str
    findings: Findings
    facts: EngineFacts


class Trials:
    """One trial for each image in a pool's life. `folder` holds what was compiled, `supervisor` the source."""

    def __init__(
        self,
        engine: Engine,
        runtime: Runtime,
        *,
        owner: str,
        folder: Path,
        supervisor: Path,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._runtime = runtime
        self._owner = owner
        self._folder = folder
        self._supervisor = supervisor
        self._clock = clock
        self._ready: dict[str, Ready] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def ready(self, name: str) -> Ready:
        """The image of this name as it is now.

        Raises:
            MisconfiguredError: no sandbox can be started from it; says why.
            UnavailableError: the engine does not answer, or has not got the image and cannot fetch it.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            image = await self._find(name)
            known = self._ready.get(image.id)
            if known is None:
                known = self._ready[image.id] = await self._try(name, image)
            return known

    async def sweep(self) -> None:
        """Remove what earlier lives compiled."""
        kept = {ready.findings.supervisor.parent.name for ready in self._ready.values()}
        await to_its_end(lambda: remove_folders(self._folder, keep=kept))

    async def _find(self, name: str) -> Image:
        try:
            image = await self._engine.image(name)
        except NotFoundError:
            if "/" not in name:
                # A bare name could be anybody's in a public registry; it is one that was built here, or a mistake.
                raise UnavailableError(
                    f"The image {name} is not on this node. Build it there (docker build -t {name} "
                    "kuberay/images/sandbox), or name its registry in the profile."
                ) from None
            get_logger().info("fetching the image of a sandbox profile", image=name)
            try:
                await self._engine.pull(name)
                image = await self._engine.image(name)
            except (NotFoundError, UnavailableError) as exc:
                raise UnavailableError(f"The image {name} is not on this node and cannot be fetched: {exc}") from exc
        if image.volumes:
            raise MisconfiguredError(
                f"The image {name} declares volumes ({', '.join(image.volumes)}), which no disk limit holds. "
                "Build it without VOLUME."
            )
        return image

    async def _try(self, name: str, image: Image) -> Ready:
        facts = await self._engine.facts()
        bench = Bench(self._folder / secrets.token_hex(6), self._supervisor)
        door = DialledDoor(bench.folder / "trial", bench.door / DIAL_NAME)
        container = f"aether-trial-{secrets.token_hex(8)}"
        try:
            await to_its_end(bench.prepare)
            door.open()
            door.trust(None)
            container_id = await self._engine.create(container, self._describe(image, bench))
            await self._start(name, container_id)
            seen = await self._see(container_id)
            exit_code = await self._exit_code(name, container_id)
            findings = await to_its_end(lambda: bench.conclude(name, exit_code))
        except BaseException:
            await to_its_end(bench.remove)
            raise
        finally:
            door.close()
            with suppress(NotFoundError):
                await self._engine.remove(container)
        told = {**findings.told, "sockets": facts.counts_sockets, **seen}
        return Ready(image.id, Findings(findings.supervisor, told), facts)

    def _describe(self, image: Image, bench: Bench) -> dict[str, object]:
        command = bench.command(
            f"{DOOR}/{DIAL_NAME}", memory_bytes=LIMITS.memory + LIMITS.disk + self._runtime.own_bytes
        )
        binds = [Bind(bench.door, DOOR)]
        binds += [Bind(source, target, is_writable=source == bench.out) for target, source in bench.binds.items()]
        return describe(image.id, self._runtime, LIMITS, command, binds, {OWNER_LABEL: self._owner})

    async def _start(self, name: str, container: str) -> None:
        try:
            await self._engine.start(container)
        except UnavailableError as exc:
            if "python3" in (told := str(exc.__cause__)) and "not found" in told:
                raise no_python(name) from exc
            raise

    async def _see(self, container: str) -> dict[str, object]:
        """What the host's kernel says it lets the container use. For cores gVisor's own clock is no measure."""
        state = await self._engine.state(container)
        process = FirstProcess.find(state.pid, container)
        if process is None:
            return {}
        try:
            cores = process.cores()
            return {"sockets": process.limit_tcp(LIMITS)} | ({} if cores is None else {"cpu": cores})
        finally:
            process.close()

    async def _exit_code(self, name: str, container: str) -> int:
        deadline = self._clock.monotonic() + TRIAL_S
        while (state := await self._engine.state(container)).is_running:
            if self._clock.monotonic() > deadline:
                raise UnavailableError(f"The trial of image {name} did not end within {TRIAL_S:.0f} seconds.")
            await asyncio.sleep(_LOOK_S)
        return state.exit_code
