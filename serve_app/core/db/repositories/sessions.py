"""Sessions, their event log and their leases. The hot statements are functions: one round trip each."""

from datetime import datetime
from typing import Any, Literal

import orjson
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.sessions import sessions
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.events import Event, EventType
from serve_app.core.domain.ids import OrgId, SessionId, new_session_id
from serve_app.core.domain.sessions import Lease, Session
from serve_app.core.errors import NotFoundError

_APPEND = "SELECT * FROM append_event(:org, :session, :fence, :type, CAST(:data AS jsonb), :key, :status)"


class SqlSessionRepository:
    """Sessions in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def create(self, caller: Caller, title: str, model: str, key: str | None) -> Session:
        """A new session with its first event; the one that is there already when `key` was used before."""
        statement = (
            insert(sessions)
            .values(
                id=new_session_id(),
                org_id=caller.org_id,
                user_id=caller.user_id,
                title=title,
                model=model,
                idempotency_key=key,
            )
            .on_conflict_do_nothing(index_elements=["org_id", "idempotency_key"])
            .returning(sessions.c.id)
        )
        async with self._db.transaction(caller.org_id) as connection:
            created: SessionId | None = (await connection.execute(statement)).scalar_one_or_none()
            if created:
                await append_in(connection, caller.org_id, created, None, EventType.SESSION_CREATED, {}, None)
            mine = sessions.c.id == created if created else sessions.c.idempotency_key == key
            return _session((await connection.execute(select(sessions).where(mine))).one())

    async def get(self, org_id: OrgId, session_id: SessionId) -> Session:
        """Raises `NotFoundError` also when the session is another organisation's."""
        async with self._db.transaction(org_id) as connection:
            row = (await connection.execute(select(sessions).where(sessions.c.id == session_id))).first()
        if row is None:
            raise NotFoundError("There is no such session.")
        return _session(row)

    async def page(self, org_id: OrgId, limit: int, before: SessionId | None) -> list[Session]:
        """Newest first; ids are ordered by time."""
        statement = select(sessions).where(sessions.c.org_id == org_id).order_by(sessions.c.id.desc()).limit(limit)
        if before:
            statement = statement.where(sessions.c.id < before)
        async with self._db.transaction(org_id) as connection:
            return [_session(row) for row in await connection.execute(statement)]

    async def append(
        self,
        org_id: OrgId,
        session_id: SessionId,
        fence: int | None,
        kind: EventType,
        data: dict[str, Any],
        key: str | None,
        status: Literal["pending"] | None = None,
    ) -> tuple[Event, bool]:
        """Append one durable event; one statement, one round trip, committed when this returns.

        `fence` is the writer's token (None: the edge, which only posts what users say). `key` makes a repeat
        harmless: the event that is there already is returned, and True beside it.

        Raises:
            FencedError: a higher token was handed out.
            NotFoundError: no such session in this organisation.
        """
        async with self._db.statement() as connection:
            return await append_in(connection, org_id, session_id, fence, kind, data, key, status)

    async def events(self, org_id: OrgId, session_id: SessionId, after: int, limit: int) -> list[Event]:
        """Durable events with `seq > after`, in order; one round trip.

        A page also ends after some 4 MiB, so only an empty one says that there is no more.
        """
        rows = await self._db.fetch(
            "SELECT * FROM read_events(:org, :session, :after, :limit)",
            org=org_id,
            session=session_id,
            after=after,
            limit=limit,
        )
        return [
            Event(
                session_id=session_id,
                seq=row.event_seq,
                type=EventType(row.event_type),
                at=row.event_at,
                data=row.event_data,
            )
            for row in rows
        ]

    async def claim(self, host: str, ttl_s: float, limit: int) -> list[Lease]:
        """Take sessions that wait, or whose owner is gone, over all organisations."""
        rows = await self._db.fetch(
            "SELECT * FROM claim_sessions(:host, :ttl, :limit)",
            host=host,
            ttl=ttl_s,
            limit=limit,
        )
        return [Lease(session=_session(row), fence=row.fence) for row in rows]

    async def renew(self, host: str, ttl_s: float, session_ids: list[SessionId]) -> set[SessionId]:
        """Prolong these leases of this host; returns the sessions it still owns."""
        rows = await self._db.fetch(
            "SELECT * FROM renew_leases(:host, :ttl, CAST(:ids AS text[]))", host=host, ttl=ttl_s, ids=session_ids
        )
        return {SessionId(row[0]) for row in rows}

    async def release(self, lease: Lease, last_seq: int) -> bool:
        """Give an idle session back. False: something was posted after `last_seq`, or the lease is lost."""
        rows = await self._db.fetch(
            "SELECT release_session(:org, :session, :fence, :seq)",
            org=lease.session.org_id,
            session=lease.session.id,
            fence=lease.fence,
            seq=last_seq,
        )
        return bool(rows[0][0])

    async def abandon(self, host: str) -> int:
        """Free every lease of this host at once, for another to take; returns how many."""
        rows = await self._db.fetch("SELECT abandon_leases(:host)", host=host)
        return int(rows[0][0])


async def append_in(
    connection: AsyncConnection,
    org_id: OrgId,
    session_id: SessionId,
    fence: int | None,
    kind: EventType,
    data: dict[str, Any],
    key: str | None,
    status: str | None = None,
) -> tuple[Event, bool]:
    """Append as part of the caller's own transaction."""
    row = (
        await connection.execute(
            text(_APPEND),
            {
                "org": org_id,
                "session": session_id,
                "fence": fence,
                "type": kind.value,
                "data": orjson.dumps(data).decode(),
                "key": key,
                "status": status,
            },
        )
    ).one()
    at: datetime = row.event_at
    stored = row.stored_data if row.is_duplicate else data
    return Event(session_id=session_id, seq=row.event_seq, type=kind, at=at, data=stored), row.is_duplicate


def _session(row: Any) -> Session:
    return Session.model_validate(row._mapping, extra="ignore")
