"""The outbox: written inside the transaction it belongs to, read by the relay."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.outbox import outbox
from serve_app.core.domain.ids import OrgId


@dataclass(frozen=True)
class OutboxRow:
    """Something another system must hear of. `id` orders rows and lets a receiver drop repeats."""

    id: int
    org_id: OrgId
    topic: str
    payload: dict[str, Any]


async def put_in_outbox(connection: AsyncConnection, org_id: OrgId, topic: str, payload: dict[str, Any]) -> None:
    await connection.execute(insert(outbox).values(org_id=org_id, topic=topic, payload=payload))


class SqlOutboxRepository:
    """Unpublished rows of every organisation, for the relay."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @asynccontextmanager
    async def take(self, limit: int) -> AsyncIterator[list[OutboxRow]]:
        """The oldest unpublished rows, locked. They count as published when the block ends well."""
        async with self._db.transaction(None) as connection:
            result = await connection.execute(text("SELECT * FROM take_outbox(:limit)"), {"limit": limit})
            rows = [OutboxRow(row.id, row.org_id, row.topic, row.payload) for row in result]
            yield rows
            if rows:
                await connection.execute(text("SELECT mark_outbox(:ids)"), {"ids": [row.id for row in rows]})
