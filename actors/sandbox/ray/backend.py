"""Starts sandboxes through Ray's API, in this process, without a container engine."""

import asyncio
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from actors.sandbox.base import HOME, WORKSPACE, Ability
from actors.sandbox.containers.entry import START_S, ask, make_folder
from actors.sandbox.containers.judging import Claims, judge
from actors.sandbox.containers.places import DOOR, SUPERVISOR, TOKEN_NAME, USER_ID, launch
from actors.sandbox.containers.processes import FirstProcess
from actors.sandbox.containers.threads import remove_folders, to_its_end
from actors.sandbox.containers.trial import LIMITS, TRIAL_S, Bench, Findings
from actors.sandbox.ray.needs import Needs, look
from actors.sandbox.ray.passed import PassedDoor
from actors.sandbox.ray.sandbox import Orders, RaySandbox
from actors.sandbox.ray.specification import OWNER_NOTE, SANDBOX_NOTE, Bind, Specification, amend, memory_bytes
from configs.sandboxes import Limits, Profile
from serve_app.core.domain.ids import SandboxId
from serve_app.core.errors import AetherError, MisconfiguredError, UnavailableError, UnenforceableError

_USER = f"{USER_ID}:{USER_ID}"
_ENV = {"HOME": HOME, "LANG": "C.UTF-8"}
_UNLIMITED_TRIAL_BYTES = 8 * 1024 * 1024


class Runtime(Orders, Protocol):
    """Ray's API as `RayRuntime` in `handles` has it; every call blocks."""

    def create(
        self,
        image: str,
        cpu: float,
        memory_bytes: int,
        env: dict[str, str],
        change: Callable[[Specification], Specification],
        *,
        is_rootless: bool,
        timeout_s: float,
    ) -> str: ...

    def run(self, name: str, command: Sequence[str], user: str, timeout_s: float) -> int: ...

    def command(self, name: str, *arguments: str) -> list[str]: ...

    def pid(self, name: str) -> int: ...

    def specifications(self) -> Iterable[tuple[str, Specification]]: ...

    def delete_foreign(self, name: str) -> None: ...


class RayBackend:
    """`owner` names this pool's place over all its lives, `image` is one its profiles use. `run_dir`: mode 0700, short."""

    name = "ray"

    def __init__(
        self,
        runtime: Runtime,
        *,
        owner: str,
        image: str,
        run_dir: Path,
        supervisor: Path,
        needs: Callable[[], Needs] = look,
    ) -> None:
        self._runtime = runtime
        self._owner = owner
        self._image = image
        self._folders, self._trials = run_dir / "boxes", run_dir / "images"
        self._supervisor = supervisor
        self._look = needs
        self._needs: Needs | None = None
        self._findings: dict[str, Findings] = {}
        self._ability: Ability | None = None
        self._learning = asyncio.Lock()
        self._alive: set[str] = set()

    async def ability(self) -> Ability:
        async with self._learning:
            if self._ability is not None:
                return self._ability
            needs = self._needs = await to_its_end(self._look)
            if needs.missing:
                return Ability(
                    self.name, is_usable=False, reason=f"Ray's sandboxes cannot start: {needs.missing}.", limits=()
                )
            try:
                findings = await self._ready(self._image)
            except (MisconfiguredError, UnavailableError) as exc:
                return Ability(self.name, is_usable=False, reason=exc.message, limits=())
            claims = Claims(
                is_gvisor=True,
                has_cpu_limit=needs.can_limit,
                has_memory_limit=needs.can_limit,
                has_swap_limit=True,
                is_host_user=False,
                why_not="Ray starts gVisor without control groups when it is not root",
            )
            self._ability = Ability(self.name, is_usable=True, reason="", limits=judge(claims, findings))
            return self._ability

    async def start(self, sandbox_id: SandboxId, profile: Profile, token: str) -> RaySandbox:
        ability = await self.ability()
        if not ability.is_usable:
            raise UnavailableError(f"No sandbox can be started with ray here: {ability.reason}")
        if missing := ability.missing():
            raise UnenforceableError(
                "ray cannot hold these limits on this machine: "
                + ", ".join(f"{each.limit} ({each.note})" for each in missing),
                limits=[each.limit for each in missing],
            )
        image = profile.image or self._image
        async with self._learning:
            findings = await self._ready(image)
        folder = self._folders / sandbox_id
        door = PassedDoor(folder / "door")
        made: list[str] = []
        supervisor, process = None, None
        self._alive.add(sandbox_id)
        try:
            await to_its_end(lambda: make_folder(folder / "inside", token))
            binds = [Bind(findings.supervisor, SUPERVISOR), Bind(folder / "inside", DOOR)]
            await to_its_end(lambda: made.append(self._create(image, profile.limits, binds, sandbox_id)))
            [name] = made
            process = await self._first_process(name, sandbox_id)
            supervisor = await self._launch(name, door, has_egress=profile.has_way_out)
            await _answer(door.path, token, supervisor)
            (folder / "inside" / TOKEN_NAME).unlink()
        except BaseException:
            door.close()
            if supervisor is not None and supervisor.returncode is None:
                with suppress(ProcessLookupError):
                    supervisor.kill()
            if process is not None:
                process.close()
            for each in made:
                with suppress(AetherError):
                    await to_its_end(lambda name=each: self._runtime.delete(name))  # type: ignore[misc]  # mypy cannot infer a lambda's default
            if supervisor is not None:
                await supervisor.wait()
            await to_its_end(lambda: shutil.rmtree(folder, ignore_errors=True))
            self._alive.discard(sandbox_id)
            raise
        return RaySandbox(sandbox_id, self._runtime, name, folder, door, supervisor, process, self._alive.discard)

    def _create(self, image: str, limits: Limits, binds: list[Bind], sandbox_id: str) -> str:
        can_limit = self._needs is not None and self._needs.can_limit
        notes = {OWNER_NOTE: self._owner, SANDBOX_NOTE: sandbox_id}
        group = f"/aether-{sandbox_id}" if can_limit else None
        try:
            return self._runtime.create(
                image, limits.cpu, memory_bytes(limits), _ENV, amend(limits, binds, notes, group),
                is_rootless=not can_limit, timeout_s=START_S,
            )  # fmt: skip
        except UnavailableError as exc:
            raise UnavailableError(
                f"{exc.message} (image {image}; it must have the folders that kuberay/images/sandbox/setup makes)"
            ) from exc

    async def _launch(self, name: str, door: PassedDoor, *, has_egress: bool) -> asyncio.subprocess.Process:
        inside = launch("--passed-fd 0" + (" --egress" if has_egress else ""))
        command = self._runtime.command(name, "exec", "-user", _USER, "-cwd", WORKSPACE, "{name}", *inside)
        with door.open() as theirs:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )

    async def _first_process(self, name: str, sandbox_id: str) -> FirstProcess | None:
        """None: it is in no control group of its own, so nothing cheap tells what it uses."""
        pid = await to_its_end(lambda: self._runtime.pid(name))
        return FirstProcess.find(pid, sandbox_id)

    async def _ready(self, image: str) -> Findings:
        known = self._findings.get(image)
        if known is None:
            known = self._findings[image] = await self._try(image)
        return known

    async def _try(self, image: str) -> Findings:
        trial = f"trial-{secrets.token_hex(6)}"
        bench = Bench(self._trials / trial, self._supervisor)
        can_limit = self._needs is not None and self._needs.can_limit
        command = bench.command("/nowhere", memory_bytes(LIMITS) if can_limit else _UNLIMITED_TRIAL_BYTES)
        binds = [Bind(source, target, is_writable=source == bench.out) for target, source in bench.binds.items()]
        made: list[str] = []
        try:
            await to_its_end(bench.prepare)
            await to_its_end(lambda: made.append(self._create(image, LIMITS, binds, trial)))
            [name] = made
            process = await self._first_process(name, trial)
            cores = process.cores() if process else None
            if process:
                process.close()
            exit_code = await to_its_end(lambda: self._runtime.run(name, command, _USER, TRIAL_S))
            findings = await to_its_end(lambda: bench.conclude(image, exit_code))
        except BaseException:
            await to_its_end(bench.remove)
            raise
        finally:
            for each in made:
                with suppress(AetherError):
                    await to_its_end(lambda name=each: self._runtime.delete(name))  # type: ignore[misc]  # mypy cannot infer a lambda's default
        return findings if cores is None else replace(findings, told={**findings.told, "cpu": cores})

    async def sweep(self) -> int:
        return await to_its_end(self._sweep)

    def _sweep(self) -> int:
        left = [
            name
            for name, found in self._runtime.specifications()
            if (notes := found.get("annotations") or {}).get(OWNER_NOTE) == self._owner
            and notes.get(SANDBOX_NOTE) not in self._alive
        ]
        for name in left:
            self._runtime.delete_foreign(name)
        remove_folders(self._folders, keep=self._alive)
        kept = {findings.supervisor.parent.name for findings in self._findings.values()}
        remove_folders(self._trials, keep=kept)
        return len(left)

    async def close(self) -> None:
        """Nothing is held between sandboxes."""


async def _answer(door: Path, token: str, supervisor: asyncio.subprocess.Process) -> None:
    asking = asyncio.ensure_future(ask(door, token))
    ending = asyncio.ensure_future(supervisor.wait())
    try:
        await asyncio.wait([asking, ending], return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise UnavailableError(f"The sandbox's supervisor ended while it started (exit code {ending.result()}).")
        await asking
    finally:
        for each in (asking, ending):
            each.cancel()
        await asyncio.gather(asking, ending, return_exceptions=True)
