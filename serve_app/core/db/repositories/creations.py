"""Creations and their versions."""

from typing import Any

from sqlalchemy import Row, insert, select, update

from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.outbox import put_in_outbox
from serve_app.core.db.repositories.sessions import append_in
from serve_app.core.db.tables.creations import creation_versions, creations
from serve_app.core.domain.creations import Creation, CreationKind, FileEntry, Version
from serve_app.core.domain.events import Event, EventType
from serve_app.core.domain.ids import CreationId, OrgId, SessionId, new_creation_id, new_version_id
from serve_app.core.domain.sessions import Lease
from serve_app.core.errors import NotFoundError


class SqlCreationRepository:
    """Creations in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def commit_turn(
        self, lease: Lease, turn: int, kind: CreationKind, title: str, entry: FileEntry, provenance: dict[str, Any]
    ) -> Event:
        """Make a turn's answer the next version of the session's creation, log it and put it in the outbox.

        One transaction; repeated for the same turn it changes nothing. The blob must be stored already.

        Raises:
            FencedError: the session has passed to another host.
        """
        session = lease.session
        async with self._db.transaction(session.org_id) as connection:
            found = (
                await connection.execute(
                    select(creations)
                    .where(creations.c.session_id == session.id)
                    .order_by(creations.c.id)
                    .limit(1)
                    .with_for_update()
                )
            ).first()
            creation_id = CreationId(found.id) if found else new_creation_id()
            number = found.head + 1 if found else 1
            version_id = new_version_id()
            data = {
                "turn": turn,
                "creation_id": creation_id,
                "version_id": version_id,
                "number": number,
                "title": found.title if found else title,
                "kind": kind,
                "path": entry.path,
                "media_type": entry.media_type,
                "size_bytes": entry.size_bytes,
            }
            event, is_duplicate = await append_in(
                connection,
                session.org_id,
                session.id,
                lease.fence,
                EventType.CREATION_VERSION,
                data,
                f"turn:{turn}:version",
            )
            if is_duplicate:
                return event
            parent = None
            if found:
                parent = (
                    await connection.execute(
                        select(creation_versions.c.id).where(
                            creation_versions.c.creation_id == creation_id, creation_versions.c.number == found.head
                        )
                    )
                ).scalar_one()
                await connection.execute(
                    update(creations).where(creations.c.id == creation_id).values(head=number, updated_at=event.at)
                )
            else:
                await connection.execute(
                    insert(creations).values(
                        id=creation_id,
                        org_id=session.org_id,
                        session_id=session.id,
                        kind=kind,
                        title=title,
                        head=number,
                        created_by=session.user_id,
                    )
                )
            await connection.execute(
                insert(creation_versions).values(
                    id=version_id,
                    org_id=session.org_id,
                    creation_id=creation_id,
                    number=number,
                    parent_id=parent,
                    message=title,
                    author_id=session.user_id,
                    files=[entry.model_dump()],
                    provenance=provenance,
                )
            )
            await put_in_outbox(connection, session.org_id, "creation.version", {**data, "session_id": session.id})
            return event

    async def get(self, org_id: OrgId, creation_id: CreationId) -> Creation:
        """Raises `NotFoundError` also when the creation is another organisation's."""
        async with self._db.transaction(org_id) as connection:
            row = (await connection.execute(select(creations).where(creations.c.id == creation_id))).first()
        if row is None:
            raise NotFoundError("There is no such creation.")
        return _creation(row)

    async def page(
        self, org_id: OrgId, limit: int, before: CreationId | None, session_id: SessionId | None = None
    ) -> list[Creation]:
        """Newest first; ids are ordered by time."""
        statement = select(creations).where(creations.c.org_id == org_id).order_by(creations.c.id.desc()).limit(limit)
        if before:
            statement = statement.where(creations.c.id < before)
        if session_id:
            statement = statement.where(creations.c.session_id == session_id)
        async with self._db.transaction(org_id) as connection:
            return [_creation(row) for row in await connection.execute(statement)]

    async def versions(self, org_id: OrgId, creation_id: CreationId, limit: int, before: int | None) -> list[Version]:
        """Newest first."""
        statement = (
            select(creation_versions)
            .where(creation_versions.c.creation_id == creation_id)
            .order_by(creation_versions.c.number.desc())
            .limit(limit)
        )
        if before:
            statement = statement.where(creation_versions.c.number < before)
        async with self._db.transaction(org_id) as connection:
            return [_version(row) for row in await connection.execute(statement)]

    async def version(self, org_id: OrgId, creation_id: CreationId, number: int | None) -> Version:
        """One version, the newest when `number` is None.

        Raises:
            NotFoundError: no such creation or version in this organisation.
        """
        statement = select(creation_versions).where(creation_versions.c.creation_id == creation_id)
        if number is None:
            statement = statement.order_by(creation_versions.c.number.desc()).limit(1)
        else:
            statement = statement.where(creation_versions.c.number == number)
        async with self._db.transaction(org_id) as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            raise NotFoundError("There is no such version.")
        return _version(row)


def _creation(row: Row[Any]) -> Creation:
    return Creation.model_validate(row._mapping, extra="ignore")


def _version(row: Row[Any]) -> Version:
    return Version.model_validate(row._mapping, extra="ignore")
