"""Sandboxes, the pools that hold them, snapshots of their workspaces, connectors; row-level security on all of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from serve_app.core.db.migrations.snapshots_0003 import SNAPSHOT_FUNCTIONS

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

GRANTS = {
    "sandboxes": "SELECT, INSERT, UPDATE",
    "sandbox_snapshots": "SELECT, INSERT, UPDATE, DELETE",
    "sandbox_stores": "SELECT, INSERT, UPDATE",
    "connectors": "SELECT, INSERT, UPDATE, DELETE",
}

# Stored sandboxes cost only their snapshots: of them an organisation may have ten times as many.
CREATE_SANDBOX = """
CREATE FUNCTION create_sandbox(p_org text, p_quota integer, p_most_bytes bigint, p_row jsonb)
RETURNS TABLE (is_new boolean, row_ sandboxes)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_row sandboxes;
    v_live integer;
    v_stored integer;
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    -- One at a time in an organisation, so that the count below is that of the moment of the insert.
    PERFORM pg_advisory_xact_lock(hashtextextended('sandboxes:' || p_org, 0));
    IF p_row->>'idempotency_key' IS NOT NULL THEN
        SELECT * INTO v_row FROM sandboxes WHERE org_id = p_org AND idempotency_key = p_row->>'idempotency_key';
        IF FOUND THEN
            RETURN QUERY SELECT false, v_row;
            RETURN;
        END IF;
    END IF;
    SELECT count(*) FILTER (WHERE state <> 'stored'), count(*) FILTER (WHERE state = 'stored')
        INTO v_live, v_stored FROM sandboxes WHERE org_id = p_org AND state <> 'ended';
    IF (p_row->>'state' <> 'stored' AND v_live >= p_quota) OR v_stored >= 10 * p_quota THEN
        RAISE EXCEPTION 'too many sandboxes' USING ERRCODE = 'AE004';
    END IF;
    -- Under the same lock snapshots are forgotten: one that is here now stays for the row that names it.
    IF p_row->>'snapshot_id' IS NOT NULL AND NOT EXISTS (
        SELECT FROM sandbox_snapshots WHERE id = p_row->>'snapshot_id' AND org_id = p_org
    ) THEN
        RAISE EXCEPTION 'no such snapshot' USING ERRCODE = 'AE005';
    END IF;
    INSERT INTO sandbox_stores (org_id) VALUES (p_org) ON CONFLICT DO NOTHING;
    IF p_row->>'state' <> 'stored' AND p_most_bytes <= (SELECT stored_bytes FROM sandbox_stores WHERE org_id = p_org)
    THEN
        RAISE EXCEPTION 'store full' USING ERRCODE = 'AE006';
    END IF;
    INSERT INTO sandboxes SELECT r.* FROM jsonb_populate_record(NULL::sandboxes, p_row || jsonb_build_object(
        'org_id', p_org, 'created_at', now(), 'active_at', now(), 'started_at', now()
    )) r RETURNING * INTO v_row;
    RETURN QUERY SELECT true, v_row;
END $$
"""

# Every change of state: made only under the fence and from a state it may be made from.
CHANGE_SANDBOX = """
CREATE FUNCTION change_sandbox(p_org text, p_id text, p_fence bigint, p_from text[], p_changes jsonb)
RETURNS SETOF sandboxes
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    RETURN QUERY UPDATE sandboxes s SET
        (state, fence, pool_id, node_id, lease, snapshot_id, started_at, active_at, ended_at, end_reason,
            idempotency_key) = (
            SELECT r.state, r.fence, r.pool_id, r.node_id, r.lease, r.snapshot_id,
                r.started_at, now(), r.ended_at, r.end_reason,
                -- One that could not be started gives its key back: the same request again makes another.
                CASE WHEN r.end_reason IS DISTINCT FROM 'failed' THEN s.idempotency_key END
            FROM jsonb_populate_record(s, p_changes) r
        )
        WHERE s.id = p_id AND s.org_id = p_org AND (p_fence IS NULL OR s.fence = p_fence) AND s.state = ANY (p_from)
        RETURNING s.*;
END $$
"""

# A stored one is started by whoever gets the next fence; so is one whose starter has been silent for too long.
BEGIN_SANDBOX = """
CREATE FUNCTION begin_sandbox(
    p_org text, p_id text, p_quota integer, p_most_bytes bigint, p_stale_s double precision
)
RETURNS SETOF sandboxes
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_live integer;
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    PERFORM pg_advisory_xact_lock(hashtextextended('sandboxes:' || p_org, 0));
    SELECT count(*) INTO v_live FROM sandboxes
        WHERE org_id = p_org AND id <> p_id AND state IN ('starting', 'running', 'frozen');
    IF v_live >= p_quota AND EXISTS (SELECT FROM sandboxes WHERE id = p_id AND org_id = p_org AND state = 'stored') THEN
        RAISE EXCEPTION 'too many sandboxes' USING ERRCODE = 'AE004';
    END IF;
    -- Twice: who may make no new ones still gets at what the old ones have, and yet cannot add to it without an end.
    IF 2 * p_most_bytes <= (SELECT stored_bytes FROM sandbox_stores WHERE org_id = p_org) THEN
        RAISE EXCEPTION 'store full' USING ERRCODE = 'AE006';
    END IF;
    RETURN QUERY UPDATE sandboxes s SET state = 'starting', fence = s.fence + 1, started_at = now(), lease = NULL
        WHERE s.id = p_id AND s.org_id = p_org AND (
            s.state = 'stored' OR (s.state = 'starting' AND s.started_at < now() - make_interval(secs => p_stale_s))
        )
        RETURNING s.*;
END $$
"""

# Back to its last snapshot, or the end: decided and written at once, as a snapshot may come in between.
LOSE_SANDBOX = """
CREATE FUNCTION lose_sandbox(p_org text, p_id text, p_fence bigint) RETURNS SETOF text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    RETURN QUERY UPDATE sandboxes SET
        state = CASE WHEN snapshot_id IS NULL THEN 'ended' ELSE 'stored' END,
        ended_at = CASE WHEN snapshot_id IS NULL THEN now() END,
        end_reason = CASE WHEN snapshot_id IS NULL THEN 'lost' END,
        lease = NULL
        WHERE id = p_id AND org_id = p_org AND fence = p_fence AND state IN ('starting', 'running', 'frozen')
        RETURNING state;
END $$
"""

# The functions below cross organisations by design: a node's pool holds the sandboxes of all of them.
TOUCH_SANDBOXES = """
CREATE FUNCTION touch_sandboxes(p_ids text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    UPDATE sandboxes SET active_at = now() WHERE id = ANY (p_ids) AND state = 'running'
$$
"""

_LOST = """
    UPDATE sandboxes SET
        state = CASE WHEN snapshot_id IS NULL THEN 'ended' ELSE 'stored' END,
        ended_at = CASE WHEN snapshot_id IS NULL THEN now() END,
        end_reason = CASE WHEN snapshot_id IS NULL THEN 'lost' END,
        lease = NULL
        WHERE state IN ('running', 'frozen') AND pool_id = ANY (v_gone)
"""

OPEN_POOL = f"""
CREATE FUNCTION open_pool(p_pool text, p_node text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_gone text[];
BEGIN
    WITH gone AS (DELETE FROM sandbox_pools WHERE node_id = p_node RETURNING id)
        SELECT coalesce(array_agg(id), '{{}}') INTO v_gone FROM gone;
    {_LOST};
    INSERT INTO sandbox_pools (id, node_id) VALUES (p_pool, p_node);
END $$
"""

BEAT_POOL = """
CREATE FUNCTION beat_pool(p_pool text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE sandbox_pools SET beat_at = now() WHERE id = p_pool;
    RETURN FOUND;
END $$
"""

LOSE_SILENT_POOLS = f"""
CREATE FUNCTION lose_silent_pools(p_older_s double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_gone text[];
    v_count bigint;
BEGIN
    -- Whoever began these is gone. They would count against the organisation's quota for ever.
    UPDATE sandboxes SET
        state = CASE WHEN snapshot_id IS NULL THEN 'ended' ELSE 'stored' END,
        ended_at = CASE WHEN snapshot_id IS NULL THEN now() END,
        end_reason = CASE WHEN snapshot_id IS NULL THEN 'failed' END,
        idempotency_key = CASE WHEN snapshot_id IS NOT NULL THEN idempotency_key END
        WHERE state = 'starting' AND started_at < now() - interval '10 minutes';
    WITH gone AS (
        DELETE FROM sandbox_pools WHERE beat_at < now() - make_interval(secs => p_older_s) RETURNING id
    ) SELECT coalesce(array_agg(id), '{{}}') INTO v_gone FROM gone;
    {_LOST};
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$
"""

FUNCTIONS = {
    "create_sandbox(text, integer, bigint, jsonb)": CREATE_SANDBOX,
    "change_sandbox(text, text, bigint, text[], jsonb)": CHANGE_SANDBOX,
    "begin_sandbox(text, text, integer, bigint, double precision)": BEGIN_SANDBOX,
    "lose_sandbox(text, text, bigint)": LOSE_SANDBOX,
    "touch_sandboxes(text[])": TOUCH_SANDBOXES,
    "open_pool(text, text)": OPEN_POOL,
    "beat_pool(text)": BEAT_POOL,
    "lose_silent_pools(double precision)": LOSE_SILENT_POOLS,
    **SNAPSHOT_FUNCTIONS,
}


def _text(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=nullable)


def _time(name: str, nullable: bool = False) -> sa.Column:
    default = None if nullable else sa.func.now()
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def _fk(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=f"fk_{table}_{column}")


def upgrade() -> None:
    op.create_table(
        "sandboxes",
        *(_text(name) for name in ("id", "org_id", "user_id")),
        *(_text(name, nullable=True) for name in ("key_id", "session_id")),
        *(_text(name) for name in ("profile", "state")),
        sa.Column("fence", sa.BigInteger, nullable=False),
        *(_text(name, nullable=True) for name in ("pool_id", "node_id")),
        sa.Column("lease", JSONB),
        _text("snapshot_id", nullable=True),
        sa.Column("services", JSONB, nullable=False),
        _text("idempotency_key", nullable=True),
        *(_time(name) for name in ("created_at", "started_at", "active_at")),
        _time("ended_at", nullable=True),
        _text("end_reason", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_sandboxes"),
        _fk("sandboxes", "org_id", "organisations"),
        _fk("sandboxes", "user_id", "users"),
        _fk("sandboxes", "key_id", "api_keys"),
        _fk("sandboxes", "session_id", "sessions"),
        sa.UniqueConstraint("org_id", "idempotency_key", name="uq_sandboxes_org_id_idempotency_key"),
    )
    op.create_index("ix_sandboxes_org_id_id", "sandboxes", ["org_id", sa.text("id DESC")])
    op.create_index("ix_sandboxes_live", "sandboxes", ["org_id"], postgresql_where=sa.text("state <> 'ended'"))
    op.create_index("ix_sandboxes_pool_id", "sandboxes", ["pool_id"], postgresql_where=sa.text("state <> 'ended'"))
    op.create_index(
        "ix_sandboxes_snapshot_id", "sandboxes", ["snapshot_id"], postgresql_where=sa.text("state <> 'ended'")
    )
    op.create_index("ix_sandboxes_ended_at", "sandboxes", ["ended_at"], postgresql_where=sa.text("state = 'ended'"))
    op.create_table(
        "sandbox_snapshots",
        *(_text(name) for name in ("id", "org_id", "sandbox_id")),
        _text("parent_id", nullable=True),
        _text("manifest"),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("files", "size_bytes", "stored_bytes")),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_sandbox_snapshots"),
        _fk("sandbox_snapshots", "org_id", "organisations"),
        _fk("sandbox_snapshots", "sandbox_id", "sandboxes"),
    )
    op.create_index("ix_sandbox_snapshots_sandbox_id_id", "sandbox_snapshots", ["sandbox_id", sa.text("id DESC")])
    op.create_index("ix_sandbox_snapshots_org_id", "sandbox_snapshots", ["org_id"])
    op.create_index("ix_sandbox_snapshots_parent_id", "sandbox_snapshots", ["parent_id"])
    op.create_table(
        "sandbox_stores",
        _text("org_id"),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default="0"),
        _time("collected_at"),
        sa.PrimaryKeyConstraint("org_id", name="pk_sandbox_stores"),
        _fk("sandbox_stores", "org_id", "organisations"),
    )
    op.create_table(
        "sandbox_pools",
        _text("id"),
        _text("node_id"),
        _time("beat_at"),
        sa.PrimaryKeyConstraint("id", name="pk_sandbox_pools"),
    )
    op.create_table(
        "connectors",
        *(_text(name) for name in ("id", "org_id", "name")),
        sa.Column("entry", JSONB, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        _text("fingerprint"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_connectors"),
        _fk("connectors", "org_id", "organisations"),
        sa.UniqueConstraint("org_id", "name", name="uq_connectors_org_id_name"),
    )
    for table, rights in GRANTS.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant ON {table} TO aether_app "
            "USING (org_id = current_setting('aether.org_id', true)) "
            "WITH CHECK (org_id = current_setting('aether.org_id', true))"
        )
        op.execute(f"GRANT {rights} ON {table} TO aether_app")
    # No tenant's: reached through the functions only.
    op.execute("ALTER TABLE sandbox_pools ENABLE ROW LEVEL SECURITY")
    for signature, body in FUNCTIONS.items():
        op.execute(body)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO aether_app")


def downgrade() -> None:
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    for table in ("connectors", "sandbox_pools", "sandbox_stores", "sandbox_snapshots", "sandboxes"):
        op.drop_table(table)
