"""An agent host: owns sessions by lease, runs each in a task, and gives back what it cannot keep."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from actors.session.loop import SessionLoop, Workshop
from serve_app.core.domain.ids import SessionId
from serve_app.core.domain.sessions import Lease
from serve_app.core.errors import FencedError, UnavailableError
from serve_app.core.services.outbox import OutboxRelay
from serve_app.core.telemetry import get_logger, span

_POLL_S = 1.0
_MAX_SESSIONS = 200
_MAX_PARENTS = 10_000


class AgentHost:
    """`name` owns the leases; each life of a host has one of its own."""

    def __init__(self, name: str, lease_ttl_s: float, workshop: Workshop, relay: OutboxRelay) -> None:
        self._name = name
        self._ttl_s = lease_ttl_s
        self._workshop = workshop
        self._relay = relay
        self._running: dict[SessionId, asyncio.Task[None]] = {}
        self._parents: dict[str, Mapping[str, str]] = {}
        self._bell = asyncio.Event()
        self._closing = False

    @property
    def busy(self) -> int:
        """How many sessions are running a turn."""
        return len(self._running)

    def wake(self, session_id: str, parent: Mapping[str, str]) -> None:
        """A message waits in this session. Only a hint: what waits is found within a second without it."""
        if len(self._parents) < _MAX_PARENTS:
            self._parents[session_id] = parent
        self._bell.set()

    async def run(self) -> None:
        """Serve until cancelled, then give every lease back."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._claim_forever(), name="claim")
                group.create_task(self._renew_forever(), name="renew")
                group.create_task(self._relay.run(), name="outbox")
        finally:
            self._closing = True
            await self._stop_tasks(list(self._running.values()))
            with suppress(UnavailableError):
                await self._workshop.sessions.abandon(self._name)

    async def _claim_forever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._bell.wait()
            self._bell.clear()
            room = _MAX_SESSIONS - len(self._running)
            if room <= 0:
                continue
            try:
                leases = await self._workshop.sessions.claim(self._name, self._ttl_s, room)
            except UnavailableError as exc:
                get_logger().warning("claiming waits", reason=exc.message)
                continue
            for lease in leases:
                self._start(lease)

    def _start(self, lease: Lease) -> None:
        session_id = lease.session.id
        task = asyncio.create_task(self._serve(lease), name=session_id)
        earlier = self._running.get(session_id)
        if earlier:
            # Our own lease had run out and we took it again: the older fencing token is void.
            earlier.cancel()
        self._running[session_id] = task
        task.add_done_callback(self._forget(session_id))

    def _forget(self, session_id: SessionId) -> Callable[[asyncio.Task[None]], None]:
        def forget(task: asyncio.Task[None]) -> None:
            if self._running.get(session_id) is task:
                del self._running[session_id]
            self._bell.set()

        return forget

    async def _serve(self, lease: Lease) -> None:
        parent = self._parents.pop(lease.session.id, None)
        log = get_logger().bind(session_id=lease.session.id, fence=lease.fence)
        with span("agent.session", parent, attributes={"session.id": lease.session.id}):
            try:
                await SessionLoop(lease, self._workshop).run()
            except FencedError:
                log.warning("session passed to another host")
            except UnavailableError as exc:
                log.warning("session left to its lease", reason=exc.message)
            except Exception:
                # One broken session must not end the others; its lease runs out and the log shows the step.
                log.exception("session failed")

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 4)
            # As they are now: a session claimed while we ask has a lease of its own and no answer here.
            asked = dict(self._running)
            if not asked:
                continue
            try:
                owned = await self._workshop.sessions.renew(self._name, self._ttl_s, list(asked))
            except UnavailableError as exc:
                get_logger().warning("renewing waits", reason=exc.message)
                continue
            lost = [task for session_id, task in asked.items() if session_id not in owned]
            # A session that has just been released is not owned either; cancelling a finished task does nothing.
            await self._stop_tasks([task for task in lost if not task.done()])

    @staticmethod
    async def _stop_tasks(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
