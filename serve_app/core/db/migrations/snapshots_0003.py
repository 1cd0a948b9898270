"""The functions of revision 0003 that keep, count and forget snapshots of workspaces."""

# Whether a sandbox would come back from it.
IS_NEEDED = """
CREATE FUNCTION is_needed(p_snapshot text) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT EXISTS (SELECT FROM sandboxes WHERE snapshot_id = p_snapshot AND state <> 'ended')
$$
"""

# What it kept for those that came from it they keep now, and none of them more than it is large.
DROP_SNAPSHOT = """
CREATE FUNCTION drop_snapshot(p_org text, p_id text) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT AS $$
    WITH gone AS (DELETE FROM sandbox_snapshots WHERE id = p_id AND org_id = p_org RETURNING *)
    UPDATE sandbox_snapshots n SET
        parent_id = gone.parent_id,
        stored_bytes = greatest(n.stored_bytes, least(n.size_bytes, n.stored_bytes + gone.stored_bytes))
        FROM gone WHERE n.parent_id = gone.id AND n.org_id = p_org
$$
"""

# Whether there is room for one more. Asked before anything is read: what is captured is stored already.
CHECK_STORE = """
CREATE FUNCTION check_store(p_org text, p_sandbox text, p_most integer, p_most_bytes bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    IF p_most_bytes <= (SELECT stored_bytes FROM sandbox_stores WHERE org_id = p_org)
        OR p_most <= (SELECT count(*) FROM sandbox_snapshots WHERE org_id = p_org AND sandbox_id = p_sandbox)
    THEN
        RAISE EXCEPTION 'store full' USING ERRCODE = 'AE006';
    END IF;
END $$
"""

# It may always be stored: of too many snapshots the oldest go that nobody would come back from.
STORE_SANDBOX = """
CREATE FUNCTION store_sandbox(p_org text, p_fence bigint, p_snapshot jsonb, p_state text, p_most integer)
RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_id text;
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    PERFORM pg_advisory_xact_lock(hashtextextended('sandboxes:' || p_org, 0));
    -- The bytes are there, whether anybody may have them or not.
    INSERT INTO sandbox_stores AS t (org_id, stored_bytes) VALUES (p_org, (p_snapshot->>'stored_bytes')::bigint)
        ON CONFLICT (org_id) DO UPDATE SET stored_bytes = t.stored_bytes + excluded.stored_bytes;
    PERFORM FROM sandboxes WHERE id = p_snapshot->>'sandbox_id' AND org_id = p_org AND fence = p_fence
        AND state IN ('running', 'frozen') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO sandbox_snapshots SELECT r.* FROM jsonb_populate_record(NULL::sandbox_snapshots, p_snapshot) r;
    UPDATE sandboxes SET
        snapshot_id = p_snapshot->>'id',
        state = coalesce(p_state, state),
        lease = CASE WHEN p_state IS NULL THEN lease END
        WHERE id = p_snapshot->>'sandbox_id';
    FOR v_id IN
        SELECT id FROM (
            SELECT n.id, row_number() OVER (ORDER BY n.id DESC) AS place
            FROM sandbox_snapshots n WHERE n.org_id = p_org AND n.sandbox_id = p_snapshot->>'sandbox_id'
        ) ranked WHERE place > p_most AND NOT is_needed(id) ORDER BY id
    LOOP
        PERFORM drop_snapshot(p_org, v_id);
    END LOOP;
    RETURN true;
END $$
"""

# NULL: there is none. False: it is needed.
FORGET_SNAPSHOT = """
CREATE FUNCTION forget_snapshot(p_org text, p_sandbox text, p_id text) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    v_is_needed boolean;
BEGIN
    PERFORM set_config('aether.org_id', p_org, true);
    PERFORM pg_advisory_xact_lock(hashtextextended('sandboxes:' || p_org, 0));
    SELECT is_needed(n.id) INTO v_is_needed FROM sandbox_snapshots n
        WHERE n.id = p_id AND n.org_id = p_org AND n.sandbox_id = p_sandbox;
    IF NOT v_is_needed THEN
        PERFORM drop_snapshot(p_org, p_id);
    END IF;
    RETURN NOT v_is_needed;
END $$
"""

# The functions below are the housekeeping's, which looks after all organisations.
ORGS_WITH_OLD_SNAPSHOTS = """
CREATE FUNCTION orgs_with_old_snapshots(p_age_s double precision, p_ended_s double precision) RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT org_id FROM sandbox_snapshots WHERE created_at < now() - make_interval(secs => p_age_s)
    UNION SELECT org_id FROM sandboxes WHERE ended_at < now() - make_interval(secs => p_ended_s)
$$
"""

# Of each sandbox the newest few stay, and the one it would come back from; of one that has ended none for ever, and in
# the end not even its row. Under the organisation's lock, so that no fork begins from what is going.
FORGET_OLD_SNAPSHOTS = """
CREATE FUNCTION forget_old_snapshots(
    p_org text, p_keep integer, p_age_s double precision, p_ended_s double precision
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_id text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('sandboxes:' || p_org, 0));
    FOR v_id IN
        SELECT id FROM (
            SELECT n.id, n.created_at, box.state,
                row_number() OVER (PARTITION BY n.sandbox_id ORDER BY n.id DESC) AS place
            FROM sandbox_snapshots n JOIN sandboxes box ON box.id = n.sandbox_id WHERE n.org_id = p_org
        ) ranked
        WHERE created_at < now() - make_interval(secs => p_age_s) AND (place > p_keep OR state = 'ended')
            AND NOT is_needed(id) ORDER BY id
    LOOP
        PERFORM drop_snapshot(p_org, v_id);
    END LOOP;
    DELETE FROM sandboxes s WHERE s.org_id = p_org AND s.state = 'ended'
        AND s.ended_at < now() - make_interval(secs => p_ended_s)
        AND NOT EXISTS (SELECT FROM sandbox_snapshots n WHERE n.sandbox_id = s.id);
END $$
"""

# Once a day each store is cleared, by whoever claims it first: what was forgotten, and what captures that broke off left
# behind. Until then it is counted as stored, because it is.
CLAIM_STORES = """
CREATE FUNCTION claim_stores(p_every_s double precision) RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    UPDATE sandbox_stores t SET
        collected_at = now(),
        stored_bytes = (SELECT coalesce(sum(n.stored_bytes), 0) FROM sandbox_snapshots n WHERE n.org_id = t.org_id)
        WHERE collected_at < now() - make_interval(secs => p_every_s)
        RETURNING org_id
$$
"""

SNAPSHOT_FUNCTIONS = {
    "is_needed(text)": IS_NEEDED,
    "drop_snapshot(text, text)": DROP_SNAPSHOT,
    "check_store(text, text, integer, bigint)": CHECK_STORE,
    "store_sandbox(text, bigint, jsonb, text, integer)": STORE_SANDBOX,
    "forget_snapshot(text, text, text)": FORGET_SNAPSHOT,
    "orgs_with_old_snapshots(double precision, double precision)": ORGS_WITH_OLD_SNAPSHOTS,
    "forget_old_snapshots(text, integer, double precision, double precision)": FORGET_OLD_SNAPSHOTS,
    "claim_stores(double precision)": CLAIM_STORES,
}
