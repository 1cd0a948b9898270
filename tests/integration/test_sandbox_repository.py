"""Rows of sandboxes, of their pools and of connectors in a real PostgreSQL: races, fences, who sees what."""

import asyncio
import secrets
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from serve_app.core.db.engine import Database, owner_engine
from serve_app.core.db.repositories.connectors import SqlConnectorRepository
from serve_app.core.db.repositories.keys import SqlKeyRepository
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.domain.connectors import Connector, OpenedConnector
from serve_app.core.domain.ids import KeyId, SandboxId, new_lease_id, new_snapshot_id
from serve_app.core.domain.sandboxes import Door, EndReason, Lease, Sandbox, SandboxState, Service, Snapshot
from serve_app.core.errors import ConflictError, CorruptedError, NotFoundError, QuotaExceededError
from serve_app.core.services.sealing import Sealer
from tests.conftest import Server, Tenant

QUOTA = 4


@pytest.fixture
def rows(database: Database) -> SqlSandboxRepository:
    return SqlSandboxRepository(database, QUOTA)


@pytest.fixture
def connectors(database: Database) -> SqlConnectorRepository:
    return SqlConnectorRepository(database, Sealer([b"k" * 32]))


async def made(rows: SqlSandboxRepository, tenant: Tenant, key_id: KeyId | None = None) -> Sandbox:
    caller = tenant.caller.model_copy(update={"key_id": key_id})
    row, is_new = await rows.create(caller, "default", None, [Service(name="web", argv=("a", "b"), port=80)])
    assert is_new
    return row


def lease_of(row: Sandbox, node: str = "node") -> Lease:
    return Lease(new_lease_id(), row.id, row.fence, Door(node, "/door", "0" * 32, "host:1"), 300.0)


async def run(rows: SqlSandboxRepository, tenant: Tenant, pool: str = "pool-x") -> tuple[Sandbox, Lease]:
    row = await made(rows, tenant)
    lease = lease_of(row)
    assert await rows.running(row.org_id, row.id, row.fence, lease, pool)
    return await rows.get(row.org_id, row.id), lease


def snapshot_of(row: Sandbox) -> Snapshot:
    return Snapshot(
        new_snapshot_id(), row.org_id, row.id, row.snapshot_id, secrets.token_hex(32), 3, 2**40, 5, datetime.now(UTC)
    )


async def test_a_life(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row, lease = await run(rows, tenant)
    org = row.org_id
    assert (row.state, row.lease, row.node_id, row.key_id) == (
        SandboxState.RUNNING,
        lease,
        "node",
        None,
    )
    assert row.services[0].argv == ("a", "b")
    assert await rows.frozen(org, row.id, row.fence)
    assert (await rows.get(org, row.id)).state is SandboxState.FROZEN
    assert await rows.thawed(org, row.id, row.fence)
    snapshot = snapshot_of(row)
    assert await rows.add_snapshot(org, row.fence, snapshot)
    assert await rows.snapshot(org, snapshot.id) == snapshot
    later = replace(snapshot_of(row), parent_id=snapshot.id)
    assert await rows.stored(org, row.fence, later)
    stored = await rows.get(org, row.id)
    assert (stored.state, stored.lease, stored.snapshot_id) == (SandboxState.STORED, None, later.id)
    assert [one.id for one in await rows.snapshots(org, row.id, 10, None)] == [later.id, snapshot.id]
    assert [one.id for one in await rows.snapshots(org, row.id, 10, later.id)] == [snapshot.id]
    assert sorted(await rows.live_manifests(org)) == sorted([snapshot.manifest, later.manifest])
    with pytest.raises(ConflictError):
        await rows.forget_snapshot(org, row.id, later.id)
    await rows.forget_snapshot(org, row.id, snapshot.id)
    with pytest.raises(NotFoundError):
        await rows.forget_snapshot(org, row.id, snapshot.id)
    begun = await rows.begin(org, row.id)
    assert begun is not None
    assert (begun.state, begun.fence) == (SandboxState.STARTING, row.fence + 1)
    assert await rows.begin(org, row.id) is None
    assert await rows.end(org, row.id, EndReason.DELETED)
    assert not await rows.end(org, row.id, EndReason.DELETED)
    ended = await rows.get(org, row.id)
    assert (ended.end_reason, ended.ended_at is not None) == (EndReason.DELETED, True)
    assert await rows.page(org, 10, None) == []
    assert [one.id for one in await rows.page(org, 10, None, with_ended=True)] == [row.id]


async def test_an_older_fence_changes_nothing(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row, _ = await run(rows, tenant)
    org = row.org_id
    assert await rows.stored(org, row.fence, snapshot_of(row))
    begun = await rows.begin(org, row.id)
    assert begun is not None
    assert not await rows.running(org, row.id, row.fence, lease_of(row), "pool-y")
    assert await rows.running(org, row.id, begun.fence, lease_of(begun), "pool-y")
    before = await rows.get(org, row.id)
    late = snapshot_of(row)
    assert not await rows.frozen(org, row.id, row.fence)
    assert not await rows.thawed(org, row.id, row.fence)
    assert not await rows.stored(org, row.fence, late)
    assert not await rows.add_snapshot(org, row.fence, late)
    assert await rows.lost(org, row.id, row.fence) is None
    assert not await rows.end(org, row.id, EndReason.WALL_LIMIT, row.fence)
    with pytest.raises(NotFoundError):
        await rows.snapshot(org, late.id)
    assert replace(await rows.get(org, row.id), active_at=before.active_at) == before


async def test_one_of_many_begins_it(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row, _ = await run(rows, tenant)
    await rows.stored(row.org_id, row.fence, snapshot_of(row))
    begun = await asyncio.gather(*(rows.begin(row.org_id, row.id) for _ in range(8)))
    assert [one.fence for one in begun if one] == [row.fence + 1]


async def test_a_starter_that_is_heard_of_is_not_followed(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row = await made(rows, tenant)
    await asyncio.sleep(0.6)
    assert await rows.starting(row.org_id, row.id, row.fence)
    assert await rows.begin(row.org_id, row.id, stale_after_s=0.5) is None
    assert not await rows.starting(row.org_id, row.id, row.fence - 1)
    assert await rows.running(row.org_id, row.id, row.fence, lease_of(row), "pool")
    assert not await rows.starting(row.org_id, row.id, row.fence)


async def test_a_silent_starter_is_followed(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row = await made(rows, tenant)
    assert await rows.begin(row.org_id, row.id) is None
    followed = await rows.begin(row.org_id, row.id, stale_after_s=0)
    assert followed is not None
    assert followed.fence == row.fence + 1
    assert not await rows.running(row.org_id, row.id, row.fence, lease_of(row), "pool-x")


async def test_the_quota_holds_under_a_race(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    async def one() -> Sandbox | None:
        try:
            return await made(rows, tenant)
        except QuotaExceededError:
            return None

    found = [row for row in await asyncio.gather(*(one() for _ in range(12))) if row]
    assert len(found) == QUOTA
    # One that is stored makes room, and needs room to come back.
    first = found[0]
    await rows.running(first.org_id, first.id, first.fence, lease_of(first), "pool-x")
    await rows.stored(first.org_id, first.fence, snapshot_of(first))
    await made(rows, tenant)
    with pytest.raises(QuotaExceededError):
        await rows.begin(first.org_id, first.id)
    await rows.end(first.org_id, found[1].id, EndReason.DELETED)
    assert await rows.begin(first.org_id, first.id)


async def test_stored_ones_are_bounded_too(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row, _ = await run(rows, tenant)
    snapshot = snapshot_of(row)
    await rows.add_snapshot(row.org_id, row.fence, snapshot)
    for _ in range(10 * QUOTA):
        await rows.create(tenant.caller, "default", None, [], snapshot.id)
    with pytest.raises(QuotaExceededError):
        await rows.create(tenant.caller, "default", None, [], snapshot.id)


async def test_a_key_makes_one_unless_it_failed(
    rows: SqlSandboxRepository, tenant: Tenant, other_tenant: Tenant
) -> None:
    async def once() -> tuple[Sandbox, bool]:
        return await rows.create(tenant.caller, "default", None, [], None, "key")

    answers = await asyncio.gather(*(once() for _ in range(6)))
    assert len({row.id for row, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1
    assert (await rows.create(other_tenant.caller, "default", None, [], None, "key"))[1]
    row = answers[0][0]
    await rows.end(row.org_id, row.id, EndReason.FAILED, row.fence)
    again, is_new = await once()
    assert is_new
    assert again.id != row.id
    await rows.end(row.org_id, again.id, EndReason.DELETED)
    assert (await once())[0].id == again.id


async def test_lost_pools_lose_what_they_held(rows: SqlSandboxRepository, tenant: Tenant, postgres: Server) -> None:
    node, pool = secrets.token_hex(6), f"pool-{secrets.token_hex(6)}"
    await rows.open_pool(pool, node)
    bare, _ = await run(rows, tenant, pool)
    kept, _ = await run(rows, tenant, pool)
    other, _ = await run(rows, tenant, "pool-elsewhere")
    await rows.add_snapshot(kept.org_id, kept.fence, snapshot_of(kept))
    await rows.frozen(kept.org_id, kept.id, kept.fence)
    assert await rows.beat_pool(pool)
    assert await rows.lose_silent(3600) == 0
    engine = owner_engine(postgres.url)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE sandbox_pools SET beat_at = now() - interval '1 hour'"))
    assert await rows.lose_silent(60) == 2
    assert not await rows.beat_pool(pool)
    states = [(row.state, row.lease is None) for row in [await rows.get(one.org_id, one.id) for one in (bare, kept)]]
    assert states == [(SandboxState.ENDED, True), (SandboxState.STORED, True)]
    assert (await rows.get(bare.org_id, bare.id)).end_reason is EndReason.LOST
    assert (await rows.get(other.org_id, other.id)).state is SandboxState.RUNNING
    # A new life of a node's pool: what the one before held is lost at once.
    await rows.open_pool(pool, node)
    third, _ = await run(rows, tenant, pool)
    await rows.open_pool(pool + "2", node)
    assert (await rows.get(third.org_id, third.id)).state is SandboxState.ENDED
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM sandbox_pools WHERE node_id = :node"), {"node": node})
    await engine.dispose()


async def test_a_start_that_nobody_follows_is_given_up(
    rows: SqlSandboxRepository, tenant: Tenant, postgres: Server
) -> None:
    row = await made(rows, tenant)
    engine = owner_engine(postgres.url)
    async with engine.begin() as connection:
        old = text("UPDATE sandboxes SET started_at = now() - interval '1 hour' WHERE id = :id")
        await connection.execute(old, {"id": row.id})
    await engine.dispose()
    await rows.lose_silent(3600)
    assert (await rows.get(row.org_id, row.id)).end_reason is EndReason.FAILED
    assert not await rows.running(row.org_id, row.id, row.fence, lease_of(row), "pool-x")


async def test_what_is_lost_goes_back_to_its_snapshot(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    row, _ = await run(rows, tenant)
    kept, _ = await run(rows, tenant)
    await rows.add_snapshot(kept.org_id, kept.fence, snapshot_of(kept))
    assert await rows.lost(row.org_id, row.id, row.fence) is SandboxState.ENDED
    assert await rows.lost(kept.org_id, kept.id, kept.fence) is SandboxState.STORED
    assert await rows.lost(kept.org_id, kept.id, kept.fence) is None


async def test_another_organisation_sees_and_changes_nothing(
    rows: SqlSandboxRepository, tenant: Tenant, other_tenant: Tenant
) -> None:
    row, lease = await run(rows, tenant)
    snapshot = snapshot_of(row)
    await rows.add_snapshot(row.org_id, row.fence, snapshot)
    before, other = await rows.get(row.org_id, row.id), other_tenant.caller.org_id
    with pytest.raises(NotFoundError):
        await rows.get(other, row.id)
    with pytest.raises(NotFoundError):
        await rows.snapshot(other, snapshot.id)
    assert await rows.page(other, 10, None, with_ended=True) == []
    assert await rows.snapshots(other, row.id, 10, None) == []
    assert await rows.live_manifests(other) == []
    with pytest.raises(NotFoundError):
        await rows.forget_snapshot(other, row.id, snapshot.id)
    with pytest.raises(NotFoundError):
        await rows.create(other_tenant.caller, "default", None, [], snapshot.id)
    await rows.check_store(other, row.id)
    assert await rows.begin(other, row.id, stale_after_s=0) is None
    assert not await rows.running(other, row.id, row.fence, lease, "pool-x")
    assert not await rows.frozen(other, row.id, row.fence)
    assert await rows.lost(other, row.id, row.fence) is None
    assert not await rows.end(other, row.id, EndReason.DELETED)
    assert not await rows.stored(other, row.fence, replace(snapshot_of(row), org_id=other))
    assert await rows.get(row.org_id, row.id) == before
    await rows.touch([SandboxId(row.id)])
    assert (await rows.get(row.org_id, row.id)).active_at > before.active_at


async def test_pages_go_on_where_they_ended(rows: SqlSandboxRepository, tenant: Tenant) -> None:
    ids = [(await made(rows, tenant)).id for _ in range(QUOTA)]
    org = tenant.caller.org_id
    first = await rows.page(org, 3, None)
    rest = await rows.page(org, 3, first[-1].id)
    assert [row.id for row in (*first, *rest)] == ids[::-1]


# --- connectors ---


async def test_connectors_are_sealed_for_one_address(
    connectors: SqlConnectorRepository, database: Database, tenant: Tenant, other_tenant: Tenant, postgres: Server
) -> None:
    org, other = tenant.caller.org_id, other_tenant.caller.org_id
    opened = OpenedConnector(Connector("crm", "https://crm.example/api", methods=("GET", "POST")), b"very-secret")
    stored = await connectors.add(org, opened)
    assert stored.connector == opened.connector
    assert await connectors.find(org, "crm") == opened
    assert await connectors.get(org, stored.id) == stored
    assert "very-secret" not in repr(await connectors.find(org, "crm"))
    with pytest.raises(ConflictError):
        await connectors.add(org, opened)
    assert (await connectors.find(other, "crm"), await connectors.page(other, 10)) == (None, [])
    for call in (connectors.get(other, stored.id), connectors.delete(other, stored.id)):
        with pytest.raises(NotFoundError):
            await call
    # Whoever can write to the table cannot send the secret elsewhere.
    engine = owner_engine(postgres.url)
    async with engine.begin() as connection:
        sealed = (
            await connection.execute(text("SELECT sealed FROM connectors WHERE id = :id"), {"id": stored.id})
        ).one()
        assert b"very-secret" not in bytes(sealed[0])
        moved = (
            "UPDATE connectors SET entry = jsonb_set(entry, '{base_url}', '\"https://evil.example\"') WHERE id = :id"
        )
        await connection.execute(text(moved), {"id": stored.id})
    await engine.dispose()
    with pytest.raises(CorruptedError):
        await connectors.find(org, "crm")
    await connectors.delete(org, stored.id)
    assert await connectors.find(org, "crm") is None
    second = await connectors.add(org, replace(opened, connector=Connector("a", "https://a.example")))
    third = await connectors.add(org, opened)
    assert [one.id for one in await connectors.page(org, 1)] == [second.id]
    assert [one.id for one in await connectors.page(org, 1, second.id)] == [third.id]


async def test_whose_key_pays_is_kept(rows: SqlSandboxRepository, database: Database, tenant: Tenant) -> None:
    [key] = await SqlKeyRepository(database).all(tenant.caller.org_id)
    row = await made(rows, tenant, key.id)
    assert (await rows.get(row.org_id, row.id)).key_id == key.id
