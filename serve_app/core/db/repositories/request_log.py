"""The request log of organisations that keep one."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import select, tuple_

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.gateway import request_log
from serve_app.core.domain.ids import OrgId


class SqlRequestLogRepository:
    """Rows are written for many organisations at a time, and read by one."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def append_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        await self._db.fetch("SELECT append_request_log(cast(:rows AS jsonb))", rows=orjson.dumps(list(rows)).decode())

    async def page(self, org_id: OrgId, limit: int, before: str | None = None) -> list[dict[str, Any]]:
        """Newest first; `before` is the id of the last row seen."""
        statement = select(request_log).order_by(request_log.c.at.desc(), request_log.c.id.desc()).limit(limit)
        if before:
            seen = select(request_log.c.at, request_log.c.id).where(request_log.c.id == before).scalar_subquery()
            statement = statement.where(tuple_(request_log.c.at, request_log.c.id) < seen)
        async with self._db.transaction(org_id) as connection:
            return [dict(row._mapping) for row in await connection.execute(statement)]
