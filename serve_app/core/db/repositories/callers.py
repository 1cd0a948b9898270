"""Who a caller is, in words."""

from dataclasses import dataclass

from sqlalchemy import select

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.callers import organisations, users
from serve_app.core.domain.callers import Caller


@dataclass(frozen=True)
class CallerNames:
    """The names behind a caller's ids."""

    organisation: str
    email: str


class SqlCallerRepository:
    """Organisations and users, as one of their members sees them."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def names(self, caller: Caller) -> CallerNames:
        async with self._db.transaction(caller.org_id) as connection:
            name = (
                await connection.execute(select(organisations.c.name).where(organisations.c.id == caller.org_id))
            ).scalar_one()
            email = (await connection.execute(select(users.c.email).where(users.c.id == caller.user_id))).scalar_one()
        return CallerNames(name, email)
