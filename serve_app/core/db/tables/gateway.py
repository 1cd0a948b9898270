"""What the gateway knows of an organisation (limits, budgets, its own models and keys), its ledger and its logs."""

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from serve_app.core.db.tables.metadata import METADATA

groups = Table(
    "groups",
    METADATA,
    Column("org_id", Text, ForeignKey("organisations.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    UniqueConstraint("org_id", "name"),
)

group_members = Table(
    "group_members",
    METADATA,
    Column("org_id", Text, primary_key=True),
    Column("group_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    # Both name the organisation, so that no row can join one tenant's group with another's user.
    ForeignKeyConstraint(["org_id", "group_id"], ["groups.org_id", "groups.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["org_id", "user_id"], ["memberships.org_id", "memberships.user_id"], ondelete="CASCADE"),
)

limits = Table(
    "limits",
    METADATA,
    Column("org_id", Text, ForeignKey("organisations.id"), primary_key=True),
    Column("scope_kind", Text, primary_key=True),
    Column("scope_id", Text, primary_key=True),
    Column("requests", BigInteger),
    Column("tokens", BigInteger),
    Column("concurrency", BigInteger),
)

# Amounts and costs are nano-dollars.
budgets = Table(
    "budgets",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False, index=True),
    Column("scope_kind", Text, nullable=False),
    Column("scope_id", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("period", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# No foreign keys: entries of many organisations are written in one statement, and a user or a key that has gone
# must not keep the others' from being written.
ledger = Table(
    "ledger",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("key_id", Text),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("dialect", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cache_written_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("is_estimated", Boolean, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("price", JSONB, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("session_id", Text),
    Column("request_id", Text),
    Column("groups", ARRAY(Text), nullable=False),
    # A budget's sum is read from the index alone.
    Index("ix_ledger_org_id_at", "org_id", "at", postgresql_include=["cost"]),
    Index("ix_ledger_org_id_user_id_at", "org_id", "user_id", "at", postgresql_include=["cost"]),
    Index("ix_ledger_org_id_key_id_at", "org_id", "key_id", "at", postgresql_include=["cost"]),
)


def _entries(name: str) -> Table:
    """Entries an organisation adds to the catalogue, as JSON in the catalogue's own words."""
    return Table(
        name,
        METADATA,
        Column("org_id", Text, ForeignKey("organisations.id"), primary_key=True),
        Column("id", Text, primary_key=True),
        Column("entry", JSONB, nullable=False),
    )


org_models = _entries("org_models")
org_aliases = _entries("org_aliases")
org_providers = _entries("org_providers")

provider_keys = Table(
    "provider_keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, ForeignKey("organisations.id"), nullable=False, index=True),
    Column("provider", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("disabled_at", DateTime(timezone=True)),
)

gateway_policies = Table(
    "gateway_policies",
    METADATA,
    Column("org_id", Text, ForeignKey("organisations.id"), primary_key=True),
    Column("cache_ttl_s", Integer),
    Column("log_mode", Text, nullable=False, server_default="off"),
)

# No foreign keys, for the ledger's reason.
request_log = Table(
    "request_log",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("dialect", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("overhead_ms", REAL, nullable=False),
    Column("request", JSONB),
    Column("answer", JSONB),
    Index("ix_request_log_org_id_at", "org_id", "at"),
)

stored_responses = Table(
    "stored_responses",
    METADATA,
    Column("org_id", Text, ForeignKey("organisations.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False, index=True),
    Column("input", JSONB, nullable=False),
    Column("body", JSONB, nullable=False),
)
