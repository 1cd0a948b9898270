"""Organisations and their owners, made with the login's own rights: no caller may do this yet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.core.db.engine import owner_engine, translate
from serve_app.core.db.tables.callers import api_keys, memberships, organisations, users
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import new_key_id, new_org_id, new_user_id
from serve_app.core.domain.keys import NewKey


class OwnerRepository:
    """Works on the login of `url` itself, outside row-level security. For the deployer only."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def first_owner(self) -> Caller | None:
        """The owner of the oldest organisation, or None on a new database."""
        statement = select(memberships).where(memberships.c.role == "owner").order_by(memberships.c.org_id).limit(1)
        async with self._begin() as connection:
            row = (await connection.execute(statement)).first()
        return Caller(org_id=row.org_id, user_id=row.user_id, role="owner") if row else None

    async def add_organisation(self, name: str, email: str) -> Caller:
        """A new organisation with a new user as its owner.

        Raises:
            ConflictError: the email is taken.
        """
        caller = Caller(org_id=new_org_id(), user_id=new_user_id(), role="owner")
        async with self._begin() as connection:
            await connection.execute(insert(organisations).values(id=caller.org_id, name=name))
            await connection.execute(insert(users).values(id=caller.user_id, email=email))
            await connection.execute(
                insert(memberships).values(org_id=caller.org_id, user_id=caller.user_id, role=caller.role)
            )
        return caller

    async def has_key(self, owner: Caller, *, name: str | None = None, prefix: str | None = None) -> bool:
        """Whether the owner ever had a key of this name, or has one of this prefix that still works."""
        statement = select(api_keys.c.id).where(api_keys.c.org_id == owner.org_id)
        if name is not None:
            statement = statement.where(api_keys.c.name == name)
        if prefix is not None:
            statement = statement.where(api_keys.c.prefix == prefix, api_keys.c.revoked_at.is_(None))
        async with self._begin() as connection:
            return (await connection.execute(statement.limit(1))).first() is not None

    async def add_key(self, owner: Caller, name: str, key: NewKey) -> None:
        async with self._begin() as connection:
            await connection.execute(
                insert(api_keys).values(
                    id=new_key_id(),
                    org_id=owner.org_id,
                    user_id=owner.user_id,
                    name=name,
                    prefix=key.prefix,
                    secret_digest=key.secret_digest,
                )
            )

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        engine = owner_engine(self._url)
        try:
            with translate():
                async with engine.begin() as connection:
                    yield connection
        finally:
            await engine.dispose()
