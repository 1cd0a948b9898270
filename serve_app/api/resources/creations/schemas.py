"""Creations, as the API shows them."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from serve_app.core.domain.creations import CreationKind, FileEntry
from serve_app.core.domain.ids import CreationId, SessionId, VersionId


class CreationOut(BaseModel):
    """`head` is the number of the newest version."""

    model_config = ConfigDict(from_attributes=True)
    id: CreationId
    session_id: SessionId | None
    kind: CreationKind
    title: str
    head: int
    created_at: datetime
    updated_at: datetime


class CreationsOut(BaseModel):
    items: list[CreationOut]
    next_cursor: str | None


class VersionOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: VersionId
    creation_id: CreationId
    number: int
    parent_id: VersionId | None
    message: str
    files: list[FileEntry]
    provenance: dict[str, Any]
    created_at: datetime


class VersionsOut(BaseModel):
    items: list[VersionOut]
    next_cursor: int | None


class PreviewLinkOut(BaseModel):
    """Opens in a browser without a key until it expires. Whoever has it can read this one creation."""

    url: str
    expires_at: datetime
