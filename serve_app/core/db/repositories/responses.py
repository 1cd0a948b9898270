"""Stored responses and the conversations they form."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Row, Text, cast, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.gateway import stored_responses
from serve_app.core.domain.ids import OrgId, UserId
from serve_app.core.domain.responses import StoredResponse
from serve_app.core.errors import NotFoundError


class SqlResponseRepository:
    """Responses in PostgreSQL. One that has expired is not there any more, deleted or not."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def put(
        self,
        org_id: OrgId,
        response_id: str,
        user_id: UserId,
        expires_at: datetime,
        body: dict[str, Any],
        items: Sequence[dict[str, Any]],
    ) -> None:
        """Stored once: a second response of the same id changes nothing."""
        row = {
            "id": response_id,
            "org_id": org_id,
            "user_id": user_id,
            "expires_at": expires_at,
            "body": _storable(body),
            "input": _storable(list(items)),
        }
        async with self._db.transaction(org_id) as connection:
            await connection.execute(insert(stored_responses).values(row).on_conflict_do_nothing())

    async def get(self, org_id: OrgId, response_id: str) -> StoredResponse:
        """Raises `NotFoundError` also when the response is another organisation's."""
        found = await self.find(org_id, [response_id])
        if not found:
            raise NotFoundError("There is no such response.")
        return found[0]

    async def find(self, org_id: OrgId, ids: Sequence[str]) -> list[StoredResponse]:
        """Those of `ids` that are there, in no order."""
        statement = select(stored_responses).where(
            stored_responses.c.id.in_(ids), stored_responses.c.expires_at > func.now()
        )
        async with self._db.transaction(org_id) as connection:
            return [_response(row) for row in await connection.execute(statement)]

    async def chain(self, org_id: OrgId, response_id: str, max_turns: int, max_bytes: int) -> list[StoredResponse]:
        """The response and those it follows, oldest first, in one query.

        The walk ends where a turn is missing. It also ends behind the first turn with which there are more than
        `max_turns`, or more than `max_bytes` of JSON, so what comes back is bounded.
        """
        stored = stored_responses.c
        size = func.octet_length(cast(stored.input, Text)) + func.octet_length(cast(stored.body["output"], Text))
        is_kept = stored.expires_at > func.now()
        walk = (
            select(*stored_responses.c, literal(1).label("depth"), size.label("size"))
            .where(stored.id == response_id, is_kept)
            .cte("walk", recursive=True)
        )
        walk = walk.union_all(
            select(*stored_responses.c, walk.c.depth + 1, walk.c.size + size).where(
                stored.id == walk.c.body["previous_response_id"].astext,
                is_kept,
                walk.c.depth <= max_turns,
                walk.c.size <= max_bytes,
            )
        )
        statement = select(walk).order_by(walk.c.depth.desc())
        async with self._db.transaction(org_id) as connection:
            return [_response(row) for row in await connection.execute(statement)]

    async def delete(self, org_id: OrgId, response_id: str) -> None:
        """Raises `NotFoundError`."""
        statement = delete(stored_responses).where(
            stored_responses.c.id == response_id, stored_responses.c.expires_at > func.now()
        )
        async with self._db.transaction(org_id) as connection:
            if not (await connection.execute(statement)).rowcount:
                raise NotFoundError("There is no such response.")


def _response(row: Row[Any]) -> StoredResponse:
    return StoredResponse(
        id=row.id,
        org_id=row.org_id,
        user_id=row.user_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        input=tuple(row.input),
        body=row.body,
    )


def _storable(value: Any) -> Any:
    """PostgreSQL's JSON has no NUL character, which a tool may print: it is stored as U+FFFD."""
    return _without_nul(value) if rb"\u0000" in orjson.dumps(value) else value


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case list():
            return [_without_nul(one) for one in value]
        case dict():
            return {_without_nul(name): _without_nul(one) for name, one in value.items()}
        case _:
            return value
