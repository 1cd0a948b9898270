"""Sandboxes, the pools that hold them, snapshots of their workspaces, and connectors."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from serve_app.core.db.tables.metadata import METADATA


def _time(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


sandboxes = Table(
    "sandboxes",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("key_id", Text, ForeignKey("api_keys.id")),
    Column("session_id", Text, ForeignKey("sessions.id")),
    Column("profile", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("pool_id", Text),
    Column("node_id", Text),
    Column("lease", JSONB),
    # No foreign key: a snapshot and its sandbox name each other, and either may go first.
    Column("snapshot_id", Text),
    Column("services", JSONB, nullable=False),
    Column("idempotency_key", Text),
    _time("created_at"),
    _time("started_at"),
    _time("active_at"),
    Column("ended_at", DateTime(timezone=True)),
    Column("end_reason", Text),
    UniqueConstraint("org_id", "idempotency_key"),
    Index("ix_sandboxes_org_id_id", "org_id", text("id DESC")),
    # Counting and losing sandboxes reads only the living, however many have ended.
    Index("ix_sandboxes_live", "org_id", postgresql_where=text("state <> 'ended'")),
    Index("ix_sandboxes_pool_id", "pool_id", postgresql_where=text("state <> 'ended'")),
    Index("ix_sandboxes_snapshot_id", "snapshot_id", postgresql_where=text("state <> 'ended'")),
    Index("ix_sandboxes_ended_at", "ended_at", postgresql_where=text("state = 'ended'")),
)

sandbox_snapshots = Table(
    "sandbox_snapshots",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("sandbox_id", Text, ForeignKey("sandboxes.id"), nullable=False),
    Column("parent_id", Text),
    Column("manifest", Text, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    _time("created_at"),
    Index("ix_sandbox_snapshots_sandbox_id_id", "sandbox_id", text("id DESC")),
    Index("ix_sandbox_snapshots_org_id", "org_id"),
    Index("ix_sandbox_snapshots_parent_id", "parent_id"),
)

sandbox_stores = Table(
    "sandbox_stores",
    METADATA,
    Column("org_id", Text, ForeignKey("organisations.id"), primary_key=True),
    # All that was stored since it was last cleared: also what was forgotten meanwhile, which still lies there.
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
    _time("collected_at"),
)

sandbox_pools = Table(
    "sandbox_pools",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("node_id", Text, nullable=False),
    _time("beat_at"),
)

connectors = Table(
    "connectors",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("entry", JSONB, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("fingerprint", Text, nullable=False),
    _time("created_at"),
    UniqueConstraint("org_id", "name"),
)
