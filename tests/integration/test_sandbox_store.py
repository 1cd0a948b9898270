"""Snapshots of sandboxes in a real PostgreSQL: how much may be stored, what is forgotten, and what never is."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.core.db.engine import Database, owner_engine
from serve_app.core.db.repositories.connectors import SqlConnectorRepository
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.domain.connectors import Connector, OpenedConnector
from serve_app.core.domain.ids import OrgId, SnapshotId, new_lease_id, new_sandbox_id, new_snapshot_id
from serve_app.core.domain.sandboxes import Door, EndReason, Lease, Sandbox, SandboxState, Snapshot
from serve_app.core.errors import ConflictError, NotFoundError, QuotaExceededError
from serve_app.core.services.sealing import Sealer
from tests.conftest import Server, Tenant

MOST_BYTES = 100
WEEK_S = 7 * 86_400.0


@pytest.fixture
def rows(database: Database) -> SqlSandboxRepository:
    return SqlSandboxRepository(database, 4, MOST_BYTES)


@pytest.fixture
async def owner(postgres: Server) -> AsyncIterator[AsyncConnection]:
    """Whoever owns the tables: each statement is committed, and no row is hidden."""
    engine = owner_engine(postgres.url).execution_options(isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def run(rows: SqlSandboxRepository, tenant: Tenant) -> Sandbox:
    row, _ = await rows.create(tenant.caller, "default", None, [])
    lease = Lease(new_lease_id(), row.id, row.fence, Door("node", "/door", "0" * 32, None), 300.0)
    assert await rows.running(row.org_id, row.id, row.fence, lease, "pool-x")
    return row


def taken(row: Sandbox, stored: int = 1, parent: SnapshotId | None = None, days_ago: int = 0) -> Snapshot:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    return Snapshot(new_snapshot_id(), row.org_id, row.id, parent, secrets.token_hex(32), 1, 50, stored, at)


def several(row: Sandbox, count: int, days_ago: int = 0) -> list[Snapshot]:
    """Oldest first: ids of one millisecond have no order."""
    return sorted((taken(row, 0, days_ago=days_ago) for _ in range(count)), key=lambda one: one.id)


async def kept(rows: SqlSandboxRepository, row: Sandbox) -> dict[SnapshotId, int]:
    """What there is of it, oldest first, and what each keeps in the store."""
    return {one.id: one.stored_bytes for one in reversed(await rows.snapshots(row.org_id, row.id, 200, None))}


async def a_day_later(owner: AsyncConnection, org: OrgId) -> None:
    statement = "UPDATE sandbox_stores SET collected_at = collected_at - interval '25 hours' WHERE org_id = :org"
    await owner.execute(text(statement), {"org": org})


async def test_a_full_store_takes_nothing_new_and_loses_nothing(
    rows: SqlSandboxRepository, tenant: Tenant, owner: AsyncConnection
) -> None:
    row, org = await run(rows, tenant), tenant.caller.org_id
    await rows.check_store(org, row.id)
    first = taken(row, 60)
    assert await rows.add_snapshot(org, row.fence, first)
    await rows.check_store(org, row.id)
    # One that its holder has lost is refused, and its bytes are in the store all the same.
    assert not await rows.add_snapshot(org, row.fence - 1, taken(row, 40))
    with pytest.raises(QuotaExceededError):
        await rows.check_store(org, row.id)
    with pytest.raises(QuotaExceededError):
        await run(rows, tenant)
    # What runs can always be stored, and comes back.
    assert await rows.stored(org, row.fence, taken(row, 40, first.id))
    begun = await rows.begin(org, row.id)
    assert begun is not None
    assert await rows.lost(org, row.id, begun.fence) is SandboxState.STORED
    # Until there is twice as much: a pause and a start again and again would have no end.
    await owner.execute(text("UPDATE sandbox_stores SET stored_bytes = 200 WHERE org_id = :org"), {"org": org})
    with pytest.raises(QuotaExceededError):
        await rows.begin(org, row.id)
    # What is deleted lies there until it is cleared away; then there is room again.
    await rows.forget_snapshot(org, row.id, first.id)
    with pytest.raises(QuotaExceededError):
        await rows.check_store(org, row.id)
    await a_day_later(owner, org)
    assert org in await rows.forget_old_snapshots(keep=10, age_s=WEEK_S)
    assert org not in await rows.forget_old_snapshots(keep=10, age_s=WEEK_S)
    await rows.check_store(org, row.id)


async def test_one_sandbox_has_a_hundred_snapshots_at_most(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row, org = await run(rows, tenant), tenant.caller.org_id
    before = several(row, 100)
    for one in before[:99]:
        assert await rows.add_snapshot(org, row.fence, one)
    fork, _ = await rows.create(tenant.caller, "default", None, [], before[0].id)
    await rows.check_store(org, row.id)
    await rows.add_snapshot(org, row.fence, before[99])
    with pytest.raises(QuotaExceededError):
        await rows.check_store(org, row.id)
    # It is stored all the same. The older ones go, but for the one that a fork waits to begin from.
    after = several(row, 2)
    assert await rows.add_snapshot(org, row.fence, after[0])
    assert await rows.stored(org, row.fence, after[1])
    assert list(await kept(rows, row)) == [one.id for one in (before[0], *before[2:], *after)]
    assert fork.snapshot_id == before[0].id


async def test_what_is_kept_for_others_is_counted_with_them(
    rows: SqlSandboxRepository, tenant: Tenant, owner: AsyncConnection
) -> None:
    row, org = await run(rows, tenant), tenant.caller.org_id
    first = taken(row, 40)
    second = taken(row, 1, first.id)
    third = taken(row, 20, second.id)
    for one in (first, second, third):
        assert await rows.add_snapshot(org, row.fence, one)
    await rows.forget_snapshot(org, row.id, first.id)
    assert await kept(rows, row) == {second.id: 41, third.id: 20}
    await rows.forget_snapshot(org, row.id, second.id)
    # It keeps no more than it is large.
    assert await kept(rows, row) == {third.id: 50}
    assert (await rows.snapshot(org, third.id)).parent_id is None
    await a_day_later(owner, org)
    await rows.forget_old_snapshots(keep=10, age_s=WEEK_S)
    found = await owner.execute(text("SELECT stored_bytes FROM sandbox_stores WHERE org_id = :org"), {"org": org})
    assert found.scalar_one() == 50


async def test_old_ones_are_forgotten_unless_somebody_needs_them(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row, org = await run(rows, tenant), tenant.caller.org_id
    old = several(row, 4, days_ago=8)
    for one in old:
        await rows.add_snapshot(org, row.fence, one)
    ended = await run(rows, tenant)
    gone, forked = taken(ended, 1, days_ago=8), taken(ended, 1, days_ago=8)
    for one in (gone, forked):
        await rows.add_snapshot(org, ended.fence, one)
    await rows.end(org, ended.id, EndReason.DELETED)
    await rows.create(tenant.caller, "default", None, [], forked.id)
    await rows.forget_old_snapshots(keep=2, age_s=WEEK_S)
    assert list(await kept(rows, row)) == [old[2].id, old[3].id]
    assert list(await kept(rows, ended)) == [forked.id]


_FORK = """
SELECT is_new FROM create_sandbox(:org, 4, 100, jsonb_build_object(
    'id', CAST(:id AS text), 'user_id', CAST(:user AS text), 'profile', 'default', 'state', 'stored', 'fence', 1,
    'snapshot_id', CAST(:snapshot AS text), 'services', '[]'::jsonb
))
"""


async def test_no_fork_begins_from_what_is_going(rows: SqlSandboxRepository, tenant: Tenant, postgres: Server) -> None:
    row, org = await run(rows, tenant), tenant.caller.org_id
    snapshot = taken(row, 1, days_ago=8)
    await rows.add_snapshot(org, row.fence, snapshot)
    await rows.end(org, row.id, EndReason.DELETED)
    engine = owner_engine(postgres.url)
    # A fork that is not committed yet: whoever forgets waits for it, and then sees it.
    async with engine.begin() as forking:
        user, fork = tenant.caller.user_id, new_sandbox_id()
        await forking.execute(text(_FORK), {"org": org, "id": fork, "user": user, "snapshot": snapshot.id})
        forgetting = [
            asyncio.create_task(rows.forget_old_snapshots(keep=0, age_s=WEEK_S)),
            asyncio.create_task(rows.forget_snapshot(org, row.id, snapshot.id)),
        ]
        done, _ = await asyncio.wait(forgetting, timeout=0.3)
        assert not done
    await engine.dispose()
    found = await asyncio.gather(*forgetting, return_exceptions=True)
    assert isinstance(found[0], list)
    assert isinstance(found[1], ConflictError)
    assert (await rows.snapshot(org, snapshot.id)).id == snapshot.id
    # And from one that is gone none begins.
    with pytest.raises(NotFoundError):
        await rows.create(tenant.caller, "default", None, [], new_snapshot_id())


async def test_what_ended_long_ago_is_forgotten(
    rows: SqlSandboxRepository, tenant: Tenant, owner: AsyncConnection
) -> None:
    org = tenant.caller.org_id
    old, recent, needed = [await run(rows, tenant) for _ in range(3)]
    snapshot = taken(needed)
    await rows.add_snapshot(org, needed.fence, snapshot)
    await rows.add_snapshot(org, old.fence, taken(old, 1, days_ago=100))
    for row in (old, recent, needed):
        await rows.end(org, row.id, EndReason.DELETED)
    await rows.create(tenant.caller, "default", None, [], snapshot.id)
    long_ago = "UPDATE sandboxes SET ended_at = now() - interval '91 days' WHERE id IN (:old, :needed)"
    await owner.execute(text(long_ago), {"old": old.id, "needed": needed.id})
    await rows.forget_old_snapshots(keep=10, age_s=WEEK_S)
    with pytest.raises(NotFoundError):
        await rows.get(org, old.id)
    assert {(await rows.get(org, one.id)).id for one in (recent, needed)} == {recent.id, needed.id}


async def test_who_is_told_what_is_said_in_the_statement_too(
    rows: SqlSandboxRepository, database: Database, tenant: Tenant, other_tenant: Tenant, owner: AsyncConnection
) -> None:
    """Row-level security is the second lock, and not the only one."""
    row, org, other = await run(rows, tenant), tenant.caller.org_id, other_tenant.caller.org_id
    snapshot = taken(row)
    await rows.add_snapshot(org, row.fence, snapshot)
    connectors = SqlConnectorRepository(database, Sealer([b"k" * 32]))
    secret = OpenedConnector(Connector("crm", "https://crm.example"), b"very-secret")
    stored = await connectors.add(org, secret)
    tables = ("sandboxes", "sandbox_snapshots", "connectors")
    for table in tables:
        await owner.execute(text(f"CREATE POLICY open_ ON {table} TO aether_app USING (true)"))
    try:
        for call in (
            rows.get(other, row.id), rows.snapshot(other, snapshot.id), connectors.get(other, stored.id),
            connectors.delete(other, stored.id), rows.forget_snapshot(other, row.id, snapshot.id),
        ):  # fmt: skip
            with pytest.raises(NotFoundError):
                await call
        found = [
            await rows.page(other, 10, None), await rows.snapshots(other, row.id, 10, None),
            await rows.live_manifests(other), await connectors.page(other, 10), await connectors.find(other, "crm"),
        ]  # fmt: skip
        assert found == [[], [], [], [], None]
    finally:
        for table in tables:
            await owner.execute(text(f"DROP POLICY open_ ON {table}"))
    assert replace(await rows.snapshot(org, snapshot.id), created_at=snapshot.created_at) == snapshot
