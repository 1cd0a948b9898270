"""The agent's loop over one session: read the log, take the next step, log it, repeat until nothing waits."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from actors.session.model import Delta, End, Model
from actors.session.steps import Answer, Commit, Finish, Message, Rest, fitting, next_step, title_of, without_old_turns
from serve_app.core.clock import Clock
from serve_app.core.db.repositories.creations import SqlCreationRepository
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.events import Event, EventType
from serve_app.core.domain.sessions import Lease
from serve_app.core.errors import AetherError, EngineError, FencedError, OverloadedError, UnavailableError
from serve_app.core.services.blobs import BlobService
from serve_app.core.services.session_log import SessionLog, live_frame
from serve_app.core.telemetry import Metrics, get_logger, span

T = TypeVar("T")

INSTRUCTIONS = "You write documents. Answer with the document the user asks for, in Markdown, starting with a title."
_HISTORY_CHARS = 12_000
_MODEL_PATIENCE_S = 60.0
_QUEUE_PATIENCE_S = 600.0
_STORE_TRIES = 40
_MAX_PAUSE_S = 3.0
_PAGE = 1_000


@dataclass(frozen=True)
class Workshop:
    """What every loop of a host shares."""

    sessions: SqlSessionRepository
    creations: SqlCreationRepository
    log: SessionLog
    blobs: BlobService
    model: Model
    clock: Clock
    metrics: Metrics
    max_answer_tokens: int


class SessionLoop:
    """Runs the turns of one session under one lease. Every append carries the lease's fencing token."""

    def __init__(self, lease: Lease, workshop: Workshop) -> None:
        self._lease = lease
        self._w = workshop
        self._log: list[Event] = []
        self._last_seq = 0
        self._turn_started: dict[int, float] = {}

    async def run(self) -> None:
        """Returns when nothing waits and the lease is given back.

        Raises:
            FencedError: another host owns the session now; whatever this one was doing is void.
            UnavailableError: a store stayed away for long; the lease will run out and the log tells where to go on.
        """
        await self._read_on()
        while True:
            step = next_step(self._log)
            if isinstance(step, Rest):
                if await self._patiently(lambda: self._w.sessions.release(self._lease, self._last_seq)):
                    return
                if not await self._read_on():
                    raise FencedError("The lease on this session is lost.")
                continue
            try:
                await self._take(step)
            except (FencedError, UnavailableError):
                raise
            except Exception:  # noqa: BLE001 - it is logged, and told to the user
                # A fault of ours ends the turn where the user can see it, instead of being met again for ever.
                get_logger().exception("step failed", turn=step.turn, step=type(step).__name__)
                await self._fail(step.turn, AetherError("The agent failed for a reason of its own."))

    async def _take(self, step: Answer | Commit | Finish) -> None:
        match step:
            case Answer():
                await self._answer(step)
            case Commit():
                await self._commit(step)
            case Finish(turn):
                await self._end(turn, EventType.TURN_COMPLETED, {}, "completed")

    async def _answer(self, step: Answer) -> None:
        session = self._lease.session
        started = self._w.clock.monotonic()
        self._turn_started.setdefault(step.turn, started)
        messages = (Message("system", INSTRUCTIONS), *fitting(step.messages, _HISTORY_CHARS))
        with span(
            "agent.answer", attributes={"session.id": session.id, "session.turn": step.turn, "model": session.model}
        ):
            try:
                spoken = await self._ask(step.turn, messages)
            except UnavailableError as exc:
                return await self._fail(step.turn, exc)
            except FencedError:
                raise
            except AetherError as exc:
                return await self._fail(step.turn, exc)
        if not spoken.text.strip():
            return await self._fail(step.turn, EngineError("The model answered with nothing. Say it differently."))
        now = self._w.clock.monotonic()
        await self._append(
            EventType.MESSAGE_ASSISTANT,
            {
                "turn": step.turn,
                "text": spoken.text,
                "model": session.model,
                "finish_reason": spoken.end.finish_reason,
                "usage": spoken.end.usage,
                "seconds": round(now - started, 3),
                "first_token_seconds": round(spoken.first_token_at - started, 3),
            },
            f"turn:{step.turn}:answer",
        )
        return None

    async def _ask(self, turn: int, messages: tuple[Message, ...]) -> "_Spoken":
        """One whole answer. A broken stream is asked for again from the start, never joined to another's words."""
        tries = 0
        began = self._w.clock.monotonic()
        while True:
            tries += 1
            try:
                return await self._listen(turn, tries, messages)
            except UnavailableError as exc:
                # A queue moves; a model that is away for long does not come back for this turn.
                patience_s = _QUEUE_PATIENCE_S if isinstance(exc, OverloadedError) else _MODEL_PATIENCE_S
                if self._w.clock.monotonic() - began > patience_s:
                    raise
                get_logger().warning("model tried again", turn=turn, tries=tries, reason=exc.message)
                await asyncio.sleep(min(_MAX_PAUSE_S, 0.2 * 2 ** min(tries, 8)))

    async def _listen(self, turn: int, attempt: int, messages: tuple[Message, ...]) -> "_Spoken":
        session = self._lease.session
        caller = Caller(org_id=session.org_id, user_id=session.user_id, role="member")
        parts: list[str] = []
        offset = 0
        first_token_at = 0.0
        stream = self._w.model.answer(caller, session.model, messages, self._w.max_answer_tokens)
        async with aclosing(stream) as answer:
            async for item in answer:
                match item:
                    case Delta(text):
                        first_token_at = first_token_at or self._w.clock.monotonic()
                        data = {"turn": turn, "attempt": attempt, "offset": offset, "text": text}
                        frame = live_frame(session.id, EventType.MESSAGE_DELTA, self._w.clock.now(), data)
                        await self._w.log.publish_live(session.id, [frame])
                        parts.append(text)
                        offset += len(text)
                    case End():
                        return _Spoken("".join(parts), item, first_token_at or self._w.clock.monotonic())
        raise UnavailableError("The model's answer broke off.")

    async def _commit(self, step: Commit) -> None:
        session = self._lease.session
        text: str = step.answer["text"]
        title = title_of(text, step.prompt)
        provenance = {
            "session_id": session.id,
            "turn": step.turn,
            "prompt": step.prompt,
            "model": step.answer["model"],
            "usage": step.answer["usage"],
        }
        with span("agent.commit", attributes={"session.id": session.id, "session.turn": step.turn}):
            # The bytes first: a row never points at a blob that is not there.
            entry = await self._patiently(
                lambda: self._w.blobs.put(session.org_id, "document.md", text.encode(), "text/markdown")
            )
            event = await self._patiently(
                lambda: self._w.creations.commit_turn(self._lease, step.turn, "document", title, entry, provenance)
            )
        await self._take_in(event)
        await self._w.log.announce(event)

    async def _fail(self, turn: int, error: AetherError) -> None:
        data = {"code": error.code, "message": error.message, "retryable": error.retryable}
        await self._end(turn, EventType.TURN_FAILED, data, "failed")

    async def _end(self, turn: int, kind: EventType, data: dict[str, Any], outcome: str) -> None:
        started = self._turn_started.pop(turn, None)
        seconds = None if started is None else round(self._w.clock.monotonic() - started, 3)
        await self._append(kind, {"turn": turn, "seconds": seconds, **data}, f"turn:{turn}:end")
        if seconds is not None:
            self._w.metrics.observe("aether_turn_seconds", seconds, outcome=outcome)

    async def _append(self, kind: EventType, data: dict[str, Any], key: str) -> None:
        session = self._lease.session
        event = await self._patiently(
            lambda: self._w.log.append(session.org_id, session.id, self._lease.fence, kind, data, key)
        )
        await self._take_in(event)

    async def _take_in(self, event: Event) -> None:
        """Keep our copy of the log whole: users post while we work, so an event may not be the next one."""
        if event.seq == self._last_seq + 1:
            self._add([event])
        else:
            await self._read_on()

    def _add(self, events: list[Event]) -> None:
        """Keep what later steps need: a host holds many sessions, and a session may be long."""
        if events:
            self._last_seq = events[-1].seq or self._last_seq
            self._log = without_old_turns([*self._log, *events], 2 * _HISTORY_CHARS)

    async def _read_on(self) -> bool:
        """Whether the log had anything new."""
        session = self._lease.session
        before = self._last_seq
        while True:
            page = await self._patiently(
                lambda: self._w.sessions.events(session.org_id, session.id, self._last_seq, _PAGE)
            )
            self._add(page)
            if not page:
                return self._last_seq > before

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Outlast a restart of a store. Every write here may be repeated: it carries a key or a condition."""
        tries = 0
        while True:
            try:
                return await work()
            except UnavailableError as exc:
                tries += 1
                if tries >= _STORE_TRIES:
                    raise
                get_logger().warning("store tried again", tries=tries, reason=exc.message)
                await asyncio.sleep(min(_MAX_PAUSE_S, 0.1 * 2 ** min(tries, 8)))


@dataclass(frozen=True)
class _Spoken:
    text: str
    end: End
    first_token_at: float
