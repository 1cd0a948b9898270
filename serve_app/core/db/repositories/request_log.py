"""The request log of organisations that keep one."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import select

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.gateway import request_log
from serve_app.core.domain.ids import OrgId


class SqlRequestLogRepository:
    """Rows are written for many organisations at a time, and read by one."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def append_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        await self._db.fetch("SELECT append_request_log(cast(:rows AS jsonb))", rows=orjson.dumps(list(rows)).decode())

    async def page(self, org_id: OrgId, before: datetime | None, limit: int) -> list[dict[str, Any]]:
        """The newest first, older than `before`."""
        statement = select(request_log).order_by(request_log.c.at.desc()).limit(limit)
        if before is not None:
            statement = statement.where(request_log.c.at < before)
        async with self._db.transaction(org_id) as connection:
            return [dict(row._mapping) for row in await connection.execute(statement)]
