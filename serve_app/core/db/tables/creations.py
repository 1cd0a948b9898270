"""Creations and their versions. Bytes live in the object store under their digest."""

from sqlalchemy import Column, DateTime, ForeignKey, Index, Integer, Table, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB

from serve_app.core.db.tables.metadata import METADATA

creations = Table(
    "creations",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id"), index=True),
    Column("kind", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("head", Integer, nullable=False),
    Column("created_by", Text, ForeignKey("users.id"), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_creations_org_id_id", "org_id", text("id DESC")),
)

creation_versions = Table(
    "creation_versions",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("creation_id", Text, ForeignKey("creations.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("parent_id", Text, ForeignKey("creation_versions.id")),
    Column("message", Text, nullable=False),
    Column("author_id", Text, ForeignKey("users.id"), nullable=False),
    Column("files", JSONB, nullable=False),
    Column("provenance", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("creation_id", "number"),
)
