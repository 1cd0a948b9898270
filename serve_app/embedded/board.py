"""The checklist of a start: what each component is doing, for whoever watches."""

import asyncio
import time
from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["waiting", "started", "done", "failed", "external"]
Phase = Literal["starting", "ready", "stopping", "failed", "stopped"]

TITLES = {
    "postgres": "PostgreSQL",
    "migrations": "Migrations",
    "valkey": "Valkey",
    "ray": "Ray",
    "stores": "Stores",
    "actors": "Agent hosts",
    "serve": "Ray Serve",
    "app:inference": "Application inference",
    "app:models": "Application models",
    "app:api": "Application api",
    "model": "Model",
    "http": "HTTP",
    "sandboxes": "Sandboxes",
}


class Step(BaseModel):
    """One line of the checklist. `seconds` counts from its start to now, or to its end."""

    model_config = ConfigDict(frozen=True)
    key: str
    title: str
    state: State = "waiting"
    seconds: float | None = None
    message: str | None = None


class Snapshot(BaseModel):
    """Everything a watcher needs to draw the whole checklist."""

    model_config = ConfigDict(frozen=True)
    phase: Phase
    steps: tuple[Step, ...]
    seconds: float
    run_id: str
    pid: int
    base_url: str
    data_dir: str
    logs_dir: str
    ray_address: str | None = None
    metrics_url: str | None = None
    reason: str | None = None
    mend: str | None = None
    # Only ever in the one snapshot that hands it over.
    owner_api_key: str | None = None


class Board:
    """Holds the steps and wakes the watchers at each change."""

    def __init__(self) -> None:
        self.phase: Phase = "starting"
        self.reason: str | None = None
        self.mend: str | None = None
        self.owner_api_key: str | None = None
        self._steps = {key: Step(key=key, title=title) for key, title in TITLES.items()}
        self._began: dict[str, float] = {}
        self._born = time.monotonic()
        self._ready_s: float | None = None
        self._changed = asyncio.Event()

    @property
    def seconds(self) -> float:
        """From the supervisor's start to ready (or to now)."""
        return self._ready_s if self._ready_s is not None else time.monotonic() - self._born

    def steps(self) -> tuple[Step, ...]:
        now = time.monotonic()
        return tuple(
            step.model_copy(update={"seconds": now - self._began[step.key]}) if step.state == "started" else step
            for step in self._steps.values()
        )

    def begin(self, key: str) -> None:
        self._began[key] = time.monotonic()
        self._put(key, state="started", seconds=0.0, message=None)

    def end(self, key: str, *, state: State = "done", seconds: float | None = None, message: str | None = None) -> None:
        if seconds is None and key in self._began:
            seconds = time.monotonic() - self._began[key]
        self._put(key, state=state, seconds=seconds, message=message)

    def fail_running(self) -> None:
        """What was under way when the start failed did not finish."""
        for step in self._steps.values():
            if step.state == "started":
                self.end(step.key, state="failed")

    def enter(self, phase: Phase, *, reason: str | None = None, mend: str | None = None) -> None:
        if phase == "ready" and self._ready_s is None:
            self._ready_s = time.monotonic() - self._born
        if phase == "ready":
            # A step that nobody took on this start is not one to show.
            self._steps = {key: step for key, step in self._steps.items() if step.state != "waiting"}
        self.phase = phase
        self.reason = reason if reason is not None else self.reason
        self.mend = mend if mend is not None else self.mend
        self.touch()

    def touch(self) -> None:
        """Wake every watcher."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        await self._changed.wait()

    def _put(self, key: str, **values: object) -> None:
        step = self._steps.get(key) or Step(key=key, title=TITLES.get(key, key))
        self._steps[key] = step.model_copy(update=values)
        self.touch()
