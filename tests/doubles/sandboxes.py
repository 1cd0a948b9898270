"""Backends, clients and meters of sandboxes that are only their state, in a test's hands."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from actors.sandbox.base import Ability, Usage
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.connection import Connection
from actors.sandbox.door.processes import Detached
from configs.sandboxes import Profile
from serve_app.core.domain.ids import SandboxId
from serve_app.core.domain.sandboxes import Sandbox
from serve_app.core.errors import AetherError, BudgetExceededError, SandboxLostError


class ScriptedStarted:
    """A sandbox that is only its state. It must be destroyed exactly once."""

    def __init__(self, backend: "ScriptedBackend", sandbox_id: SandboxId) -> None:
        self.id = sandbox_id
        self.door = Path("/nowhere") / sandbox_id
        self.pid: int | None = None
        self.is_frozen = False
        self.uses_bytes = 0
        self.destroyed = 0
        self.dead = asyncio.Event()
        self._backend = backend

    async def wait(self) -> str:
        await self.dead.wait()
        return "its supervisor was killed"

    async def usage(self) -> Usage:
        return Usage(self.uses_bytes, 0.0, 1)

    async def freeze(self) -> bool:
        self.is_frozen = self._backend.can_freeze
        return self._backend.can_freeze

    async def thaw(self) -> None:
        self.is_frozen = False

    async def destroy(self) -> None:
        self.destroyed += 1
        await asyncio.sleep(0)
        await self._backend.end_gate.wait()
        self._backend.alive.discard(self)


class ScriptedBackend:
    """Starts when `gate` is open; raises the next of `failures` instead while there are any."""

    def __init__(self) -> None:
        self.name = "bubblewrap"
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self.all: list[ScriptedStarted] = []
        self.tokens: list[str] = []
        self.alive: set[ScriptedStarted] = set()
        self.asked = 0
        self.most_alive = 0
        self.can_freeze = True
        self.is_usable = True
        self.is_closed = False
        self.sweep_fails: Exception | None = None
        self.end_gate = asyncio.Event()
        self.end_gate.set()

    async def ability(self) -> Ability:
        return Ability(self.name, self.is_usable, "" if self.is_usable else "There is no bubblewrap.", ())

    async def start(self, sandbox_id: SandboxId, profile: Profile, token: str) -> ScriptedStarted:
        self.asked += 1
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        started = ScriptedStarted(self, sandbox_id)
        self.tokens.append(token)
        self.all.append(started)
        self.alive.add(started)
        self.most_alive = max(self.most_alive, len(self.alive))
        return started

    async def sweep(self) -> int:
        if self.sweep_fails:
            raise self.sweep_fails
        return 0

    async def close(self) -> None:
        self.is_closed = True

    def check_left(self) -> None:
        """Nothing lives, and each was destroyed once."""
        assert not self.alive
        assert [started.destroyed for started in self.all] == [1] * len(self.all)


class ScriptedClient(SandboxClient):
    """What a pool and a front ask of a client, answered at once."""

    def __init__(self) -> None:
        async def dial() -> Connection:
            raise SandboxLostError("Nobody is there.")

        super().__init__(dial, "0" * 32)
        self.busy = self.lost = self.is_closed = False
        self.lost_connections = 0
        self.is_frozen = False
        self.token = ""
        """What it was claimed with."""
        self.started: list[tuple[str, ...]] = []
        self.fails: AetherError | None = None

    @property
    def is_busy(self) -> bool:
        return self.busy

    @property
    def is_lost(self) -> bool:
        return self.lost

    @property
    def losses(self) -> int:
        return self.lost_connections

    async def close(self) -> None:
        self.is_closed = True

    async def claim(self, token: str) -> None:
        if self.fails:
            raise self.fails
        self.token = token

    async def start(self, command: str | Sequence[str], **_: object) -> Detached:
        if self.fails:
            raise self.fails
        self.started.append(tuple(command))
        return Detached("p1", 1)

    async def freeze(self) -> None:
        if self.fails:
            raise self.fails
        self.is_frozen = True

    async def thaw(self) -> None:
        if self.fails:
            raise self.fails
        self.is_frozen = False


class ScriptedMeters:
    """One purse for all. `spent` refuses what comes; `open` counts meters that run."""

    def __init__(self) -> None:
        self.spent = False
        self.open = 0

    def of(self, sandbox: Sandbox, nanos_per_second: int) -> "ScriptedMeterage":
        return ScriptedMeterage(self)


class ScriptedMeterage:
    def __init__(self, meters: ScriptedMeters) -> None:
        self._meters = meters
        self.is_running = False

    async def begin(self) -> None:
        await asyncio.sleep(0)
        if self._meters.spent:
            raise BudgetExceededError("Nothing is left.")
        if not self.is_running:
            self.is_running = True
            self._meters.open += 1

    async def tick(self) -> None:
        if self._meters.spent and self.is_running:
            raise BudgetExceededError("Nothing is left.")

    async def end(self) -> None:
        if self.is_running:
            self.is_running = False
            self._meters.open -= 1


async def settled(rounds: int = 50) -> None:
    """Let everything that can go on without time passing go on."""
    for _ in range(rounds):
        await asyncio.sleep(0)
