"""Sessions and their event log."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from serve_app.core.db.tables.metadata import METADATA

sessions = Table(
    "sessions",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("title", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="idle"),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    Column("unanswered", Integer, nullable=False, server_default="0"),
    Column("lease_host", Text),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("lease_expires_at", DateTime(timezone=True)),
    Column("idempotency_key", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("org_id", "idempotency_key"),
    Index("ix_sessions_org_id_id", "org_id", text("id DESC")),
    # The claim query reads only this sliver, however many sessions rest.
    Index("ix_sessions_waiting", "updated_at", postgresql_where=text("status <> 'idle'")),
)

session_events = Table(
    "session_events",
    METADATA,
    Column("session_id", Text, ForeignKey("sessions.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    Column("idempotency_key", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index(
        "uq_session_events_session_id_idempotency_key",
        "session_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)
