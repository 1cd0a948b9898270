"""The connection pool, the transaction that carries an organisation, and PostgreSQL's errors translated once."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import (
    ConflictError,
    FencedError,
    MisconfiguredError,
    NotFoundError,
    QuotaExceededError,
    TooManyMessagesError,
    UnavailableError,
)

APP_ROLE = "aether_app"
"""The role every connection takes. It owns nothing, so row-level security binds it even when the login may all."""


class Database:
    """Owns the pool. `url` is `postgresql://…`; every connection runs as `APP_ROLE`."""

    def __init__(self, url: str, pool_size: int = 8, connect_timeout_s: float = 10.0) -> None:
        self._engine = create_async_engine(
            async_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=connect_timeout_s,
            # A connection that died with its server is found by the failing statement and replaced; a ping on
            # every checkout would cost a round trip on every durable event.
            pool_pre_ping=False,
            pool_recycle=1800,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args={
                "timeout": connect_timeout_s,
                "command_timeout": 30,
                "server_settings": {"role": APP_ROLE, "application_name": "aetheros", "jit": "off"},
            },
        )
        # One statement is one transaction and one round trip: the functions in the migrations set the
        # organisation themselves.
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(self, org_id: OrgId | None) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees and writes only rows of `org_id`; commits when the block ends well.

        With None it sees no tenant's rows at all and is good only for the functions that cross organisations.

        Raises:
            UnavailableError: PostgreSQL cannot be reached now.
            ConflictError: a unique constraint was hit.
        """
        with translate():
            async with self._engine.begin() as connection:
                if org_id is not None:
                    await connection.execute(text("SELECT set_config('aether.org_id', :org, true)"), {"org": org_id})
                yield connection

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which every statement commits by itself. For the functions that carry their own scope."""
        with translate():
            async with self._autocommit.connect() as connection:
                yield connection

    async def fetch(self, sql: str, **params: Any) -> list[Any]:
        """Run one self-contained statement; one round trip."""
        async with self.statement() as connection:
            return list((await connection.execute(text(sql), params)).all())

    async def ping(self) -> None:
        """Raises `UnavailableError`."""
        await self.fetch("SELECT 1")

    async def close(self) -> None:
        await self._engine.dispose()


def async_url(url: str) -> str:
    """`url` with the driver SQLAlchemy shall use, and libpq's `sslmode` by that driver's name."""
    parsed = make_url("postgresql+asyncpg://" + url.partition("://")[2])
    if mode := parsed.query.get("sslmode"):
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return parsed.render_as_string(hide_password=False)


def owner_engine(url: str) -> AsyncEngine:
    """An engine with the login's own rights, for migrations and the first owner only."""
    return create_async_engine(async_url(url), pool_size=1, max_overflow=1)


_FENCED, _NO_SESSION, _TOO_MANY, _QUOTA = "AE001", "AE002", "AE003", "AE004"
_NO_SNAPSHOT, _STORE_FULL = "AE005", "AE006"


@contextmanager
def translate() -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except IntegrityError as exc:
        raise ConflictError("This collides with something that exists already.") from exc
    except (OperationalError, InterfaceError, PoolTimeoutError, OSError, TimeoutError) as exc:
        raise UnavailableError("The database cannot be reached right now. Try again.") from exc
    except DBAPIError as exc:
        match getattr(exc.orig, "sqlstate", None):
            case str(code) if code == _FENCED:
                raise FencedError("This session has passed to another host.") from exc
            case str(code) if code == _NO_SESSION:
                raise NotFoundError("There is no such session.") from exc
            case str(code) if code == _TOO_MANY:
                raise TooManyMessagesError("Too many messages wait in this session. Let some be answered.") from exc
            case str(code) if code == _QUOTA:
                raise QuotaExceededError(
                    "This organisation has as many sandboxes as it may have. Delete one that is not needed."
                ) from exc
            case str(code) if code == _NO_SNAPSHOT:
                raise NotFoundError("There is no such snapshot.") from exc
            case str(code) if code == _STORE_FULL:
                raise QuotaExceededError(
                    "There are as many snapshots as there may be, or they take as much room as this organisation may "
                    "have. Delete some; their room is free within two days."
                ) from exc
            # Class 28: the login is refused. 3D: no such database.
            case str(code) if code[:2] in {"28", "3D"}:
                raise MisconfiguredError("The database refuses us; see AETHER_DATABASE_URL.") from exc
            # Class 57: operator intervention (shutdown, crash). 08: connection. 53: out of resources.
            case str(code) if code[:2] in {"57", "08", "53"}:
                raise UnavailableError("The database is restarting. Try again.") from exc
            # Class 40: undone in favour of somebody else's (a deadlock, for one).
            case str(code) if code[:2] == "40":
                raise UnavailableError("The database undid this for another request's sake. Try again.") from exc
            case _ if exc.connection_invalidated:
                raise UnavailableError("The database cannot be reached right now. Try again.") from exc
            case _:
                raise
