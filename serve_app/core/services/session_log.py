"""A session's log: append durably, tell watchers, and follow it from any `seq` without missing or repeating one."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import orjson

from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.domain.events import Event, EventType
from serve_app.core.domain.ids import OrgId, SessionId
from serve_app.core.errors import UnavailableError
from serve_app.core.stores.live.base import Disturbed, LiveEvents, LiveFrame
from serve_app.core.telemetry import Metrics, get_logger

_PAGE = 500
_RETRY_S = 0.5
_MAX_LIVE_BYTES = 32 * 1024


@dataclass(frozen=True)
class KeepAlive:
    """Nothing happened for a while."""


class SessionLog:
    """Joins the log in PostgreSQL with the live stream.

    `recheck_s`: how often a silent watcher looks into the log, for what an owner stored but could not tell.
    """

    def __init__(
        self,
        sessions: SqlSessionRepository,
        live: LiveEvents,
        metrics: Metrics,
        *,
        recheck_s: float = 2.0,
        keep_alive_s: float = 15.0,
    ) -> None:
        self._sessions = sessions
        self._live = live
        self._metrics = metrics
        self._recheck_s = recheck_s
        self._keep_alive_s = keep_alive_s

    async def append(
        self,
        org_id: OrgId,
        session_id: SessionId,
        fence: int | None,
        kind: EventType,
        data: dict[str, Any],
        key: str | None,
        status: Literal["pending"] | None = None,
    ) -> Event:
        """One durable event. When this returns it is stored; watchers are told as well as may be."""
        event, is_duplicate = await self._sessions.append(org_id, session_id, fence, kind, data, key, status)
        if not is_duplicate:
            await self.announce(event)
        return event

    async def announce(self, event: Event) -> None:
        """Tell watchers of a stored event. Failing is harmless: they find it in the log."""
        self._metrics.count("aether_session_events", type=event.type.value)
        frame = frame_of(event)
        if len(frame.body) > _MAX_LIVE_BYTES:
            # The broker is shared: what is large is only announced, and watchers read it from the log.
            frame = replace(frame, body=b"")
        await self.publish_live(event.session_id, [frame])

    async def publish_live(self, session_id: SessionId, frames: list[LiveFrame]) -> None:
        try:
            await self._live.publish(_channel(session_id), frames)
        except UnavailableError:
            get_logger().warning("live frames dropped", session_id=session_id, frames=len(frames))

    async def follow(
        self, org_id: OrgId, session_id: SessionId, after: int
    ) -> AsyncGenerator[LiveFrame | KeepAlive, None]:
        """Every durable event with `seq > after` exactly once and in order, with live ones in between; never ends.

        Where live events were lost a `gap` event stands in their place; durable ones are never lost.
        """
        last = after
        async with self._live.subscribe(_channel(session_id)) as subscription:
            must_read = True
            silent_s = 0.0
            while True:
                if must_read:
                    async for frame in self.read(org_id, session_id, last):
                        assert frame.seq is not None  # noqa: S101 - the log holds durable events only
                        last = frame.seq
                        silent_s = 0.0
                        yield frame
                must_read = False
                items = await subscription.next(min(self._recheck_s, self._keep_alive_s))
                if not items:
                    must_read = True
                    silent_s += self._recheck_s
                    if silent_s >= self._keep_alive_s:
                        silent_s = 0.0
                        yield KeepAlive()
                for item in items:
                    silent_s = 0.0
                    if isinstance(item, Disturbed):
                        yield _gap(session_id, last)
                        must_read = True
                    elif item.seq is None:
                        yield item
                    elif item.seq == last + 1 and item.body:
                        last = item.seq
                        yield item
                    elif item.seq > last:
                        # It, or something before it, was stored and not told whole: the log has it.
                        must_read = True
                        break

    async def read(self, org_id: OrgId, session_id: SessionId, after: int) -> AsyncGenerator[LiveFrame, None]:
        """The log as it stands, behind `after`; waits while the database is away."""
        while True:
            try:
                events = await self._sessions.events(org_id, session_id, after, _PAGE)
            except UnavailableError:
                # A watcher outlives a restart of the database; there is nothing it could do about it.
                await asyncio.sleep(_RETRY_S)
                continue
            for event in events:
                after = event.seq or after
                yield frame_of(event)
            if not events:
                return


def frame_of(event: Event) -> LiveFrame:
    return LiveFrame(event.seq, event.type.value, orjson.dumps(event.model_dump()))


def live_frame(session_id: SessionId, kind: EventType, at: datetime, data: dict[str, Any]) -> LiveFrame:
    """A frame that is never stored."""
    return frame_of(Event(session_id=session_id, seq=None, type=kind, at=at, data=data))


def _gap(session_id: SessionId, after: int) -> LiveFrame:
    body = {"session_id": session_id, "seq": None, "type": EventType.GAP.value, "at": None, "data": {"after": after}}
    return LiveFrame(None, EventType.GAP.value, orjson.dumps(body))


def _channel(session_id: SessionId) -> str:
    return f"session:{session_id}"
