"""API keys."""

from sqlalchemy import func, insert, select, update

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.callers import api_keys
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import KeyId, OrgId, new_key_id
from serve_app.core.domain.keys import KeyRecord, NewKey, StoredKey
from serve_app.core.errors import NotFoundError


class SqlKeyRepository:
    """Keys in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def find_key(self, prefix: str) -> StoredKey | None:
        rows = await self._db.fetch("SELECT * FROM find_api_key(:prefix)", prefix=prefix)
        if not rows:
            return None
        row = rows[0]
        caller = Caller(org_id=row.org_id, user_id=row.user_id, role=row.role, key_id=row.id)
        return StoredKey(row.id, caller, row.secret_digest, row.revoked_at)

    async def add(self, caller: Caller, name: str, key: NewKey) -> KeyRecord:
        statement = (
            insert(api_keys)
            .values(
                id=new_key_id(),
                org_id=caller.org_id,
                user_id=caller.user_id,
                name=name,
                prefix=key.prefix,
                secret_digest=key.secret_digest,
            )
            .returning(api_keys)
        )
        async with self._db.transaction(caller.org_id) as connection:
            row = (await connection.execute(statement)).one()
        return KeyRecord.model_validate(row._mapping, extra="ignore")

    async def all(self, org_id: OrgId) -> list[KeyRecord]:
        async with self._db.transaction(org_id) as connection:
            rows = await connection.execute(select(api_keys).order_by(api_keys.c.id.desc()).limit(1000))
            return [KeyRecord.model_validate(row._mapping, extra="ignore") for row in rows]

    async def revoke(self, org_id: OrgId, key_id: KeyId) -> None:
        """Revoke for good; doing it again changes nothing.

        Raises:
            NotFoundError: the organisation has no such key.
        """
        statement = (
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, func.now()))
        )
        async with self._db.transaction(org_id) as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise NotFoundError("There is no such API key.")
