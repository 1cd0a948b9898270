"""Creations: what agents hand back. Their own objects, with versions, apart from the chat."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from serve_app.core.domain.ids import CreationId, OrgId, SessionId, UserId, VersionId
from serve_app.core.errors import NotFoundError

CreationKind = Literal["document"]


class FileEntry(BaseModel):
    """One file of a version: its path and the blob that holds its bytes."""

    model_config = ConfigDict(frozen=True)
    path: str
    sha256: str
    size_bytes: int
    media_type: str


class Version(BaseModel):
    """An immutable state of a creation. `number` counts from 1; `provenance` says how it came to be."""

    model_config = ConfigDict(frozen=True)
    id: VersionId
    creation_id: CreationId
    number: int
    parent_id: VersionId | None
    message: str
    author_id: UserId
    files: tuple[FileEntry, ...]
    provenance: dict[str, Any]
    created_at: datetime

    def file(self, path: str) -> FileEntry:
        """Raises `NotFoundError`, which names the files there are."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise NotFoundError("This version has no such file.", files=[entry.path for entry in self.files])


class Creation(BaseModel):
    """The object people keep, share and open. `head` is the number of its newest version."""

    model_config = ConfigDict(frozen=True)
    id: CreationId
    org_id: OrgId
    session_id: SessionId | None
    kind: CreationKind
    title: str
    head: int
    created_by: UserId
    created_at: datetime
    updated_at: datetime


def preview_label(creation_id: CreationId) -> str:
    """The creation's id as a DNS label (RFC 1123 has no underscore)."""
    return creation_id.replace("_", "-")


def creation_of_label(label: str) -> CreationId:
    return CreationId(label.replace("-", "_", 1))
