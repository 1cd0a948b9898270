"""What a real PostgreSQL refuses, as callers see it."""

import asyncio

from sqlalchemy import text

from serve_app.core.db.engine import Database
from serve_app.core.errors import UnavailableError


async def test_a_deadlock_is_worth_another_try(database: Database) -> None:
    is_held = asyncio.Barrier(2)

    async def take(first: int, second: int) -> None:
        async with database.transaction(None) as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": first})
            await is_held.wait()
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": second})

    ended = await asyncio.gather(take(1, 2), take(2, 1), return_exceptions=True)
    assert sorted(type(one).__name__ for one in ended) == ["NoneType", UnavailableError.__name__]
