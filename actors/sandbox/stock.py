"""The stock of one profile: sandboxes that wait ready, and cold starts for those who cannot wait for one."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from actors.sandbox.base import SandboxBackend, Started
from configs.sandboxes import Profile
from serve_app.core.clock import Clock
from serve_app.core.domain.ids import new_sandbox_id
from serve_app.core.errors import AetherError, UnavailableError
from serve_app.core.telemetry import get_logger

_DEMAND_WINDOW_S = 10.0
_MOST_GROWTH = 8
"""Times `warm` of the profile, at most, when demand is high."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_CLOSING = "This node's sandbox pool is closing. Try again."


@dataclass(frozen=True)
class Ready:
    """A sandbox nobody has used yet. `token` opens its door."""

    started: Started
    token: str


class Stock:
    """`starting` bounds cold starts over all profiles of a node; `room` tells how many more may be started to wait ready:
    whoever takes one has found room for it before. What was taken is replaced after `refill_pause_s`: whoever took it is
    about to use it, and a start would take the cores away from that."""

    def __init__(
        self,
        profile: Profile,
        backend: SandboxBackend,
        starting: asyncio.Semaphore,
        clock: Clock,
        room: Callable[[], int],
        refill_pause_s: float = 0.1,
    ) -> None:
        self.profile = profile
        self._backend = backend
        self._starting = starting
        self._clock = clock
        self._room = room
        self._ready: deque[Ready] = deque()
        self._waiting: deque[asyncio.Future[Ready]] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._taken_at: deque[float] = deque()
        self._pause_s = 0.0
        self._resume: asyncio.TimerHandle | None = None
        self._refill_pause_s = refill_pause_s
        self._refill: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def ready(self) -> int:
        return len(self._ready)

    @property
    def under_way(self) -> int:
        """Those being started that nobody waits for."""
        return max(0, len(self._starts) - self._waiters())

    async def take(self) -> Ready:
        """One that waits ready, else the next that becomes so.

        Raises:
            UnenforceableError: this machine cannot hold a limit of the profile.
            UnavailableError: it could not be started.
        """
        if self._is_closed:
            raise UnavailableError(_CLOSING)
        self._taken_at.append(self._clock.monotonic())
        if self._ready:
            ready = self._ready.popleft()
            self._unwatch(ready)
            self._fill_soon()
            return ready
        waiter: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._start_for_those_who_wait()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self._keep(waiter.result())
            with suppress(ValueError):
                self._waiting.remove(waiter)
            raise

    def fill(self) -> None:
        """Start what is missing. Called when something was taken or has died, and now and then."""
        if self._is_closed or self._resume is not None:
            return
        missing = self._wanted() + self._waiters() - len(self._ready) - len(self._starts)
        if missing > 0:
            for _ in range(min(missing, self._room())):
                self._start()

    def _fill_soon(self) -> None:
        if self._refill is None:
            self._refill = asyncio.get_running_loop().call_later(self._refill_pause_s, self._fill_now)

    def _fill_now(self) -> None:
        self._refill = None
        self.fill()

    def trim(self) -> None:
        """Give up what demand no longer asks for."""
        while len(self._ready) > self._wanted():
            ready = self._ready.popleft()
            self._unwatch(ready)
            self._destroy(ready)

    async def close(self) -> None:
        self._is_closed = True
        for timer in (self._resume, self._refill):
            if timer:
                timer.cancel()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(UnavailableError(_CLOSING))
        tasks = [*self._starts, *self._watches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._ready:
            self._destroy(self._ready.popleft())
        while self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)

    def _wanted(self) -> int:
        since = self._clock.monotonic() - _DEMAND_WINDOW_S
        while self._taken_at and self._taken_at[0] < since:
            self._taken_at.popleft()
        warm = self.profile.warm
        return max(warm, min(len(self._taken_at), warm * _MOST_GROWTH))

    def _waiters(self) -> int:
        return sum(not waiter.done() for waiter in self._waiting)

    def _start_for_those_who_wait(self) -> None:
        for _ in range(self._waiters() - len(self._starts)):
            self._start()

    def _start(self) -> None:
        task = asyncio.create_task(self._run_start(), name=f"start {self.profile.id}")
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    async def _run_start(self) -> None:
        outcome = await self._started()
        # At once, and not when the task has ended: whoever comes next must not wait for one that is given away.
        if task := asyncio.current_task():
            self._starts.discard(task)
        if isinstance(outcome, AetherError):
            self._fail(outcome)
        else:
            self._pause_s = 0.0
            self._keep(outcome)

    async def _started(self) -> Ready | AetherError:
        token = secrets.token_hex(16)
        try:
            async with self._starting:
                return Ready(await self._backend.start(new_sandbox_id(), self.profile, token), token)
        except AetherError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - one start that failed must not leave a caller waiting
            get_logger().exception("sandbox did not start", profile=self.profile.id, exc_info=exc)
            return UnavailableError("The sandbox did not start. Try again.")

    def _keep(self, ready: Ready) -> None:
        if self._is_closed:
            self._destroy(ready)
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(ready)
                return
        self._ready.append(ready)
        self._watches[ready.started.id] = asyncio.create_task(self._watch(ready), name="warm sandbox")

    def _fail(self, exc: AetherError) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(exc)
                return
        get_logger().warning("warm sandbox did not start", profile=self.profile.id, reason=exc.message)
        self._pause()

    def _pause(self) -> None:
        """What fails again and again is tried less and less often, unless somebody waits for it."""
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        if self._resume is None and not self._is_closed:
            self._resume = asyncio.get_running_loop().call_later(self._pause_s, self._go_on)

    def _go_on(self) -> None:
        self._resume = None
        self.fill()

    async def _watch(self, ready: Ready) -> None:
        reason = await ready.started.wait()
        get_logger().warning("warm sandbox died", profile=self.profile.id, reason=reason)
        self._watches.pop(ready.started.id, None)
        self._ready.remove(ready)
        self._destroy(ready)
        # One that starts well and dies at once must not keep the machine busy with starts.
        self._pause()

    def _destroy(self, ready: Ready) -> None:
        """In a task of its own: it may take seconds, and nobody who is cancelled may leave half of it."""
        task = asyncio.create_task(ready.started.destroy(), name=f"destroy {ready.started.id}")
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (exc := task.exception()):
            get_logger().error("sandbox not destroyed", profile=self.profile.id, exc_info=exc)

    def _unwatch(self, ready: Ready) -> None:
        if watch := self._watches.pop(ready.started.id, None):
            watch.cancel()
