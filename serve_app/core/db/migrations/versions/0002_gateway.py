"""The gateway's limits, budgets, ledger, catalogue additions, keys and logs; row-level security on all of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

READ_WRITE = "SELECT, INSERT, UPDATE, DELETE"
APPEND_ONLY = "SELECT, INSERT"
GRANTS = {
    "groups": READ_WRITE,
    "group_members": READ_WRITE,
    "limits": READ_WRITE,
    "budgets": READ_WRITE,
    "ledger": APPEND_ONLY,
    "org_models": READ_WRITE,
    "org_aliases": READ_WRITE,
    "org_providers": READ_WRITE,
    "provider_keys": "SELECT, INSERT, UPDATE",
    "gateway_policies": READ_WRITE,
    "request_log": APPEND_ONLY,
    "stored_responses": "SELECT, INSERT, DELETE",
}

# The two that append cross organisations by design: one replica's batch holds the calls of all it serves.
APPEND_LEDGER = """
CREATE FUNCTION append_ledger(p jsonb) RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    INSERT INTO ledger SELECT e.* FROM jsonb_populate_recordset(NULL::ledger, p) e
    ON CONFLICT (id) DO NOTHING RETURNING id
$$
"""

APPEND_REQUEST_LOG = """
CREATE FUNCTION append_request_log(p jsonb) RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    INSERT INTO request_log SELECT e.* FROM jsonb_populate_recordset(NULL::request_log, p) e
    ON CONFLICT (id) DO NOTHING RETURNING id
$$
"""

# `p_without` names entries the caller counts itself.
BUDGET_SPENT = """
CREATE FUNCTION budget_spent(
    p_org text, p_scope_kind text, p_scope_id text, p_since timestamptz, p_without text[] DEFAULT '{}'
) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_spent numeric;
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    CASE p_scope_kind
        WHEN 'organisation' THEN
            SELECT sum(cost) INTO v_spent FROM ledger WHERE org_id = p_org AND at >= p_since;
        WHEN 'user' THEN
            SELECT sum(cost) INTO v_spent FROM ledger WHERE org_id = p_org AND user_id = p_scope_id AND at >= p_since;
        WHEN 'key' THEN
            SELECT sum(cost) INTO v_spent FROM ledger WHERE org_id = p_org AND key_id = p_scope_id AND at >= p_since;
        WHEN 'group' THEN
            SELECT sum(cost) INTO v_spent FROM ledger
                WHERE org_id = p_org AND p_scope_id = ANY (groups) AND at >= p_since;
    END CASE;
    RETURN coalesce(v_spent, 0) - coalesce((
        SELECT sum(cost) FROM ledger WHERE id = ANY (p_without) AND org_id = p_org AND at >= p_since AND
            CASE p_scope_kind
                WHEN 'user' THEN user_id = p_scope_id
                WHEN 'key' THEN key_id = p_scope_id
                WHEN 'group' THEN p_scope_id = ANY (groups)
                ELSE true
            END
    ), 0);
END $$
"""

GATEWAY_POLICY = """
CREATE FUNCTION gateway_policy(p_org text) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    RETURN jsonb_build_object(
        'limits', (SELECT coalesce(jsonb_agg(to_jsonb(t) - 'org_id'), '[]') FROM limits t),
        'budgets', (
            SELECT coalesce(jsonb_agg(to_jsonb(t) - 'org_id' - 'created_at' ORDER BY t.id), '[]') FROM budgets t
        ),
        'groups', (
            SELECT coalesce(jsonb_agg(jsonb_build_object('id', g.id, 'name', g.name, 'members', (
                SELECT coalesce(jsonb_agg(m.user_id ORDER BY m.user_id), '[]')
                FROM group_members m WHERE m.group_id = g.id
            )) ORDER BY g.id), '[]') FROM groups g
        ),
        'models', (SELECT coalesce(jsonb_agg(t.entry ORDER BY t.id), '[]') FROM org_models t),
        'aliases', (SELECT coalesce(jsonb_agg(t.entry ORDER BY t.id), '[]') FROM org_aliases t),
        'providers', (SELECT coalesce(jsonb_agg(t.entry ORDER BY t.id), '[]') FROM org_providers t),
        'keys', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'id', k.id, 'provider', k.provider, 'name', k.name, 'fingerprint', k.fingerprint,
                -- PostgreSQL breaks base64 into lines.
                'sealed', translate(encode(k.sealed, 'base64'), E'\\n', '')
            ) ORDER BY k.id), '[]') FROM provider_keys k WHERE k.disabled_at IS NULL
        ),
        'policy', coalesce(
            (SELECT to_jsonb(t) - 'org_id' FROM gateway_policies t),
            jsonb_build_object('cache_ttl_s', NULL, 'log_mode', 'off')
        )
    );
END $$
"""

FORGET_RESPONSES = """
CREATE FUNCTION forget_expired_responses() RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH gone AS (DELETE FROM stored_responses WHERE expires_at < now() RETURNING 1) SELECT count(*) FROM gone
$$
"""

FUNCTIONS = {
    "append_ledger(jsonb)": APPEND_LEDGER,
    "append_request_log(jsonb)": APPEND_REQUEST_LOG,
    "budget_spent(text, text, text, timestamptz, text[])": BUDGET_SPENT,
    "gateway_policy(text)": GATEWAY_POLICY,
    "forget_expired_responses()": FORGET_RESPONSES,
}


def _text(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=nullable)


def _number(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _created_at() -> sa.Column:
    return sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)


def _time(name: str, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _of_organisation(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["org_id"], ["organisations.id"], name=f"fk_{table}_org_id")


def _create_policy_tables() -> None:
    op.create_table(
        "groups",
        _text("org_id"),
        _text("id"),
        _text("name"),
        sa.PrimaryKeyConstraint("org_id", "id", name="pk_groups"),
        _of_organisation("groups"),
        sa.UniqueConstraint("org_id", "name", name="uq_groups_org_id_name"),
    )
    op.create_table(
        "group_members",
        _text("org_id"),
        _text("group_id"),
        _text("user_id"),
        sa.PrimaryKeyConstraint("org_id", "group_id", "user_id", name="pk_group_members"),
        sa.ForeignKeyConstraint(
            ["org_id", "group_id"],
            ["groups.org_id", "groups.id"],
            name="fk_group_members_org_id_group_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["org_id", "user_id"],
            ["memberships.org_id", "memberships.user_id"],
            name="fk_group_members_org_id_user_id",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "limits",
        _text("org_id"),
        _text("scope_kind"),
        _text("scope_id"),
        _number("requests", nullable=True),
        _number("tokens", nullable=True),
        _number("concurrency", nullable=True),
        sa.PrimaryKeyConstraint("org_id", "scope_kind", "scope_id", name="pk_limits"),
        _of_organisation("limits"),
    )
    op.create_table(
        "budgets",
        _text("id"),
        _text("org_id"),
        _text("scope_kind"),
        _text("scope_id"),
        _number("amount"),
        _text("period"),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_budgets"),
        _of_organisation("budgets"),
    )
    op.create_index("ix_budgets_org_id", "budgets", ["org_id"])
    op.create_table(
        "gateway_policies",
        _text("org_id"),
        sa.Column("cache_ttl_s", sa.Integer),
        sa.Column("log_mode", sa.Text, nullable=False, server_default="off"),
        sa.PrimaryKeyConstraint("org_id", name="pk_gateway_policies"),
        _of_organisation("gateway_policies"),
    )


def _create_catalog_tables() -> None:
    for table in ("org_models", "org_aliases", "org_providers"):
        op.create_table(
            table,
            _text("org_id"),
            _text("id"),
            sa.Column("entry", JSONB, nullable=False),
            sa.PrimaryKeyConstraint("org_id", "id", name=f"pk_{table}"),
            _of_organisation(table),
        )
    op.create_table(
        "provider_keys",
        _text("id"),
        _text("org_id"),
        _text("provider"),
        _text("name"),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        _text("fingerprint"),
        _created_at(),
        _time("disabled_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_provider_keys"),
        _of_organisation("provider_keys"),
    )
    op.create_index("ix_provider_keys_org_id", "provider_keys", ["org_id"])


def _create_ledger() -> None:
    op.create_table(
        "ledger",
        *(_text(name) for name in ("id", "org_id", "user_id")),
        _text("key_id", nullable=True),
        _time("at"),
        *(_text(name) for name in ("model", "provider", "credential", "dialect", "outcome")),
        *(_number(f"{kind}_tokens") for kind in ("input", "output", "cached", "cache_written", "reasoning")),
        sa.Column("is_estimated", sa.Boolean, nullable=False),
        _number("cost"),
        _number("reserved"),
        sa.Column("price", JSONB, nullable=False),
        _number("duration_ms"),
        _text("session_id", nullable=True),
        _text("request_id", nullable=True),
        sa.Column("groups", ARRAY(sa.Text), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
    )
    for columns in (["org_id", "at"], ["org_id", "user_id", "at"], ["org_id", "key_id", "at"]):
        op.create_index(f"ix_ledger_{'_'.join(columns)}", "ledger", columns, postgresql_include=["cost"])


def _create_logs() -> None:
    op.create_table(
        "request_log",
        *(_text(name) for name in ("id", "org_id", "user_id")),
        _time("at"),
        *(_text(name) for name in ("model", "provider", "dialect")),
        sa.Column("status", sa.Integer, nullable=False),
        _number("duration_ms"),
        sa.Column("overhead_ms", sa.REAL, nullable=False),
        sa.Column("request", JSONB),
        sa.Column("answer", JSONB),
        sa.PrimaryKeyConstraint("id", name="pk_request_log"),
    )
    op.create_index("ix_request_log_org_id_at", "request_log", ["org_id", "at"])
    op.create_table(
        "stored_responses",
        *(_text(name) for name in ("id", "org_id", "user_id")),
        _created_at(),
        _time("expires_at"),
        sa.Column("input", JSONB, nullable=False),
        sa.Column("body", JSONB, nullable=False),
        # A provider chose the id, which may be an organisation's own: it is a name in that organisation and no further.
        sa.PrimaryKeyConstraint("org_id", "id", name="pk_stored_responses"),
        _of_organisation("stored_responses"),
    )
    op.create_index("ix_stored_responses_expires_at", "stored_responses", ["expires_at"])


def upgrade() -> None:
    _create_policy_tables()
    _create_catalog_tables()
    _create_ledger()
    _create_logs()
    for table, rights in GRANTS.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant ON {table} TO aether_app "
            "USING (org_id = current_setting('aether.org_id', true)) "
            "WITH CHECK (org_id = current_setting('aether.org_id', true))"
        )
        op.execute(f"GRANT {rights} ON {table} TO aether_app")
    for signature, body in FUNCTIONS.items():
        op.execute(body)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO aether_app")


def downgrade() -> None:
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    for table in reversed(GRANTS):
        op.drop_table(table)
