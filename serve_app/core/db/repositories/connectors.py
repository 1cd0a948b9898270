"""Connectors of organisations: what may be asked of whom, beside the secret it is asked with, sealed."""

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import delete, func, insert, select

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.sandboxes import connectors
from serve_app.core.domain.connectors import Connector, OpenedConnector
from serve_app.core.domain.ids import ConnectorId, OrgId, new_connector_id
from serve_app.core.errors import ConflictError, InvalidRequestError, NotFoundError

_FINGERPRINT_CHARS = 12
_MOST = 1000
"""In one organisation."""


class Seals(Protocol):
    """What keeps secrets at rest: `services.sealing.Sealer`."""

    def seal(self, plain: bytes, context: bytes) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes: ...


@dataclass(frozen=True)
class StoredConnector:
    """A connector as its owners may see it: never the secret. `fingerprint` is the beginning of its SHA-256."""

    id: ConnectorId
    connector: Connector
    fingerprint: str
    created_at: datetime


class SqlConnectorRepository:
    """Connectors in PostgreSQL; the source that sandboxes' ways out ask for them."""

    def __init__(self, database: Database, sealer: Seals) -> None:
        self._db = database
        self._sealer = sealer

    async def add(self, org_id: OrgId, opened: OpenedConnector) -> StoredConnector:
        """Raises `ConflictError` when the name is taken, `InvalidRequestError` when there are too many."""
        connector = opened.connector
        row = {
            "id": new_connector_id(),
            "org_id": org_id,
            "name": connector.name,
            "entry": asdict(connector),
            "sealed": self._sealer.seal(opened.secret, _context(org_id, connector)),
            "fingerprint": hashlib.sha256(opened.secret).hexdigest()[:_FINGERPRINT_CHARS],
        }
        try:
            async with self._db.transaction(org_id) as connection:
                stored = (await connection.execute(insert(connectors).values(row).returning(*_SHOWN))).one()
                count = (
                    await connection.execute(select(func.count()).where(connectors.c.org_id == org_id))
                ).scalar_one()
                if count > _MOST:
                    raise InvalidRequestError(f"An organisation has at most {_MOST} connectors.")
        except ConflictError as exc:
            raise ConflictError(f"There is a connector named {connector.name} already.") from exc
        return _stored(stored)

    async def page(self, org_id: OrgId, limit: int, after: ConnectorId | None = None) -> list[StoredConnector]:
        """Oldest first."""
        statement = select(*_SHOWN).where(connectors.c.org_id == org_id).order_by(connectors.c.id).limit(limit)
        if after:
            statement = statement.where(connectors.c.id > after)
        async with self._db.transaction(org_id) as connection:
            return [_stored(row) for row in await connection.execute(statement)]

    async def get(self, org_id: OrgId, connector_id: ConnectorId) -> StoredConnector:
        """Raises `NotFoundError`."""
        statement = select(*_SHOWN).where(connectors.c.org_id == org_id, connectors.c.id == connector_id)
        async with self._db.transaction(org_id) as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            raise NotFoundError("There is no such connector.")
        return _stored(row)

    async def delete(self, org_id: OrgId, connector_id: ConnectorId) -> None:
        """With its secret. Raises `NotFoundError`."""
        statement = delete(connectors).where(connectors.c.org_id == org_id, connectors.c.id == connector_id)
        async with self._db.transaction(org_id) as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise NotFoundError("There is no such connector.")

    async def find(self, org_id: OrgId, name: str) -> OpenedConnector | None:
        """With its secret, for one use. Raises `CorruptedError` when what is stored is not what was sealed."""
        ours = connectors.c.org_id == org_id
        statement = select(connectors.c.entry, connectors.c.sealed).where(ours, connectors.c.name == name)
        async with self._db.transaction(org_id) as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            return None
        connector = _connector(row.entry)
        return OpenedConnector(connector, self._sealer.open(bytes(row.sealed), _context(org_id, connector)))


_SHOWN = [connectors.c[name] for name in ("id", "entry", "fingerprint", "created_at")]


def _context(org_id: OrgId, connector: Connector) -> bytes:
    """What a secret is bound to: whose it is, and where and how it is sent. Moved to another address it does not open."""
    parts = (org_id, connector.name, connector.base_url, connector.header, connector.value_prefix)
    return "\n".join(("connector", *parts)).encode()


def _connector(entry: dict[str, Any]) -> Connector:
    lists = {name: tuple(entry[name]) for name in ("methods", "path_prefixes")}
    return Connector(**{**entry, **lists})


def _stored(row: Any) -> StoredConnector:
    return StoredConnector(row.id, _connector(row.entry), row.fingerprint, row.created_at)
