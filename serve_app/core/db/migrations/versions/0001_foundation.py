"""Organisations, callers, sessions with their log, creations, outbox; row-level security on all of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TENANT_TABLES = {
    "organisations": "id",
    "memberships": "org_id",
    "api_keys": "org_id",
    "sessions": "org_id",
    "session_events": "org_id",
    "creations": "org_id",
    "creation_versions": "org_id",
    "outbox": "org_id",
}

# The functions below are the hot path. Each is one statement, hence one transaction and one round trip, and sets
# the organisation itself, so row-level security holds inside them as well.

APPEND = """
CREATE FUNCTION append_event(
    p_org text, p_session text, p_fence bigint, p_type text, p_data jsonb, p_key text, p_status text
) RETURNS TABLE (event_seq bigint, event_at timestamptz, stored_data jsonb, is_duplicate boolean)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_fence bigint;
    v_unanswered integer;
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    -- The row lock gives every event of a session its place: seq is strictly increasing and has no gaps.
    SELECT s.fence, s.unanswered INTO v_fence, v_unanswered FROM sessions s WHERE s.id = p_session FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such session' USING ERRCODE = 'AE002';
    END IF;
    IF p_fence IS NOT NULL AND p_fence <> v_fence THEN
        RAISE EXCEPTION 'fenced' USING ERRCODE = 'AE001';
    END IF;
    IF p_key IS NOT NULL THEN
        RETURN QUERY SELECT e.seq, e.created_at, e.data, true FROM session_events e
            WHERE e.session_id = p_session AND e.idempotency_key = p_key;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF p_type = 'message.user' AND v_unanswered >= 200 THEN
        RAISE EXCEPTION 'too many unanswered messages' USING ERRCODE = 'AE003';
    END IF;
    UPDATE sessions s SET last_seq = s.last_seq + 1, updated_at = now(),
        unanswered = CASE p_type
            WHEN 'message.user' THEN s.unanswered + 1
            WHEN 'turn.completed' THEN greatest(s.unanswered - 1, 0)
            WHEN 'turn.failed' THEN greatest(s.unanswered - 1, 0)
            ELSE s.unanswered END,
        status = CASE WHEN p_status IS NULL OR s.status = 'running' THEN s.status ELSE p_status END
        WHERE s.id = p_session RETURNING s.last_seq INTO event_seq;
    INSERT INTO session_events (session_id, seq, org_id, type, data, idempotency_key)
        VALUES (p_session, event_seq, p_org, p_type, p_data, p_key)
        RETURNING created_at INTO event_at;
    is_duplicate := false;
    RETURN NEXT;
END $$
"""

# Crosses organisations by design: hosts serve all of them. SECURITY DEFINER keeps that right in this one statement.
CLAIM = """
CREATE FUNCTION claim_sessions(p_host text, p_ttl_s double precision, p_limit integer)
RETURNS SETOF sessions
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    UPDATE sessions SET
        lease_host = p_host,
        fence = fence + 1,
        lease_expires_at = now() + make_interval(secs => p_ttl_s),
        status = 'running'
    WHERE id IN (
        SELECT id FROM sessions
        WHERE status <> 'idle' AND (lease_expires_at IS NULL OR lease_expires_at < now())
        ORDER BY updated_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    )
    RETURNING *
$$
"""

RENEW = """
CREATE FUNCTION renew_leases(p_host text, p_ttl_s double precision, p_ids text[]) RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    UPDATE sessions SET lease_expires_at = now() + make_interval(secs => p_ttl_s)
    WHERE id = ANY (p_ids) AND status = 'running' AND lease_host = p_host RETURNING id
$$
"""

RELEASE = """
CREATE FUNCTION release_session(p_org text, p_session text, p_fence bigint, p_last_seq bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    -- Only when nothing was posted since the host last read the log.
    UPDATE sessions SET status = 'idle', lease_host = NULL, lease_expires_at = NULL
        WHERE id = p_session AND fence = p_fence AND last_seq = p_last_seq;
    RETURN FOUND;
END $$
"""

READ = """
CREATE FUNCTION read_events(p_org text, p_session text, p_after bigint, p_limit integer)
RETURNS TABLE (event_seq bigint, event_type text, event_data jsonb, event_at timestamptz)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    -- At most 4 MiB, but always one: a page is bounded by its bytes too.
    RETURN QUERY SELECT p.seq, p.type, p.data, p.created_at FROM (
        SELECT e.*, sum(octet_length(e.data::text)) OVER (ORDER BY e.seq) - octet_length(e.data::text) AS bytes_before
        FROM (
            SELECT * FROM session_events WHERE session_id = p_session AND seq > p_after ORDER BY seq LIMIT p_limit
        ) e
    ) p WHERE p.bytes_before < 4 * 1024 * 1024 ORDER BY p.seq;
END $$
"""

ABANDON = """
CREATE FUNCTION abandon_leases(p_host text) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH freed AS (
        UPDATE sessions SET status = 'pending', lease_host = NULL, lease_expires_at = NULL
        WHERE status = 'running' AND lease_host = p_host RETURNING 1
    ) SELECT count(*)::integer FROM freed
$$
"""

FIND_KEY = """
CREATE FUNCTION find_api_key(p_prefix text)
RETURNS TABLE (id text, org_id text, user_id text, role text, secret_digest bytea, revoked_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT k.id, k.org_id, k.user_id, m.role, k.secret_digest, k.revoked_at
    FROM api_keys k JOIN memberships m ON m.org_id = k.org_id AND m.user_id = k.user_id
    WHERE k.prefix = p_prefix
$$
"""

TAKE_OUTBOX = """
CREATE FUNCTION take_outbox(p_limit integer) RETURNS SETOF outbox
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT * FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT p_limit FOR UPDATE SKIP LOCKED
$$
"""

MARK_OUTBOX = """
CREATE FUNCTION mark_outbox(p_ids bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    UPDATE outbox SET published_at = now() WHERE id = ANY (p_ids);
    DELETE FROM outbox WHERE published_at < now() - interval '7 days'
$$
"""

FUNCTIONS = {
    "append_event(text, text, bigint, text, jsonb, text, text)": APPEND,
    "claim_sessions(text, double precision, integer)": CLAIM,
    "renew_leases(text, double precision, text[])": RENEW,
    "release_session(text, text, bigint, bigint)": RELEASE,
    "read_events(text, text, bigint, integer)": READ,
    "abandon_leases(text)": ABANDON,
    "find_api_key(text)": FIND_KEY,
    "take_outbox(integer)": TAKE_OUTBOX,
    "mark_outbox(bigint[])": MARK_OUTBOX,
}


def _created_at() -> sa.Column:
    return sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)


def _org() -> sa.Column:
    return sa.Column("org_id", sa.Text, nullable=False)


def _fk(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=f"fk_{table}_{column}")


def upgrade() -> None:
    op.create_table(
        "organisations",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_organisations"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "memberships",
        _org(),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("org_id", "user_id", name="pk_memberships"),
        _fk("memberships", "org_id", "organisations"),
        _fk("memberships", "user_id", "users"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, nullable=False),
        _org(),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("secret_digest", sa.LargeBinary, nullable=False),
        _created_at(),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        _fk("api_keys", "org_id", "organisations"),
        _fk("api_keys", "user_id", "users"),
        sa.UniqueConstraint("prefix", name="uq_api_keys_prefix"),
    )
    op.create_index("ix_api_keys_org_id", "api_keys", ["org_id"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, nullable=False),
        _org(),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="idle"),
        sa.Column("last_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("unanswered", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease_host", sa.Text),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True)),
        sa.Column("idempotency_key", sa.Text),
        _created_at(),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        _fk("sessions", "org_id", "organisations"),
        _fk("sessions", "user_id", "users"),
        sa.UniqueConstraint("org_id", "idempotency_key", name="uq_sessions_org_id_idempotency_key"),
    )
    op.create_index("ix_sessions_org_id_id", "sessions", ["org_id", sa.text("id DESC")])
    op.create_index("ix_sessions_waiting", "sessions", ["updated_at"], postgresql_where=sa.text("status <> 'idle'"))
    op.create_table(
        "session_events",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        _org(),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("data", JSONB, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        _created_at(),
        sa.PrimaryKeyConstraint("session_id", "seq", name="pk_session_events"),
        _fk("session_events", "session_id", "sessions"),
        _fk("session_events", "org_id", "organisations"),
    )
    op.create_index(
        "uq_session_events_session_id_idempotency_key",
        "session_events",
        ["session_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "creations",
        sa.Column("id", sa.Text, nullable=False),
        _org(),
        sa.Column("session_id", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("head", sa.Integer, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        _created_at(),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_creations"),
        _fk("creations", "org_id", "organisations"),
        _fk("creations", "session_id", "sessions"),
        _fk("creations", "created_by", "users"),
    )
    op.create_index("ix_creations_session_id", "creations", ["session_id"])
    op.create_index("ix_creations_org_id_id", "creations", ["org_id", sa.text("id DESC")])
    op.create_table(
        "creation_versions",
        sa.Column("id", sa.Text, nullable=False),
        _org(),
        sa.Column("creation_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("parent_id", sa.Text),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("author_id", sa.Text, nullable=False),
        sa.Column("files", JSONB, nullable=False),
        sa.Column("provenance", JSONB, nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_creation_versions"),
        _fk("creation_versions", "org_id", "organisations"),
        _fk("creation_versions", "creation_id", "creations"),
        _fk("creation_versions", "parent_id", "creation_versions"),
        _fk("creation_versions", "author_id", "users"),
        sa.UniqueConstraint("creation_id", "number", name="uq_creation_versions_creation_id_number"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        _org(),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        _created_at(),
        sa.Column("published_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        _fk("outbox", "org_id", "organisations"),
    )
    op.create_index("ix_outbox_unpublished", "outbox", ["id"], postgresql_where=sa.text("published_at IS NULL"))

    op.execute(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'aether_app') "
        "THEN CREATE ROLE aether_app NOLOGIN; END IF; END $$"
    )
    op.execute("GRANT aether_app TO CURRENT_USER")
    op.execute("DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO aether_app', current_schema()); END $$")
    for table, column in TENANT_TABLES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant ON {table} TO aether_app "
            f"USING ({column} = current_setting('aether.org_id', true)) "
            f"WITH CHECK ({column} = current_setting('aether.org_id', true))"
        )
    op.execute("GRANT SELECT ON organisations, memberships TO aether_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON api_keys, sessions, creations TO aether_app")
    # The log and the versions are append-only, also for a bug.
    op.execute("GRANT SELECT, INSERT ON session_events, creation_versions, outbox TO aether_app")
    # Users have no organisation; what a caller may see of them goes through their memberships.
    op.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant ON users TO aether_app USING (EXISTS ("
        "SELECT FROM memberships m WHERE m.user_id = users.id AND m.org_id = current_setting('aether.org_id', true)))"
    )
    op.execute("GRANT SELECT ON users TO aether_app")
    for signature, body in FUNCTIONS.items():
        op.execute(body)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO aether_app")


def downgrade() -> None:
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP POLICY tenant ON users")
    for table in (
        "outbox", "creation_versions", "creations", "session_events", "sessions",
        "api_keys", "memberships", "users", "organisations",
    ):
        op.drop_table(table)
