"""Sessions in a real PostgreSQL: order, idempotency, fencing, tenancy, leases."""

import asyncio

import pytest
from sqlalchemy import text

from serve_app.core.db.engine import Database
from serve_app.core.db.migrate import migrate
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.domain.events import EventType
from serve_app.core.errors import FencedError, MisconfiguredError, NotFoundError
from tests.conftest import Server, Tenant


async def test_concurrent_appends_get_every_seq_once_and_in_order(database: Database, tenant: Tenant) -> None:
    sessions = SqlSessionRepository(database)
    session = await sessions.create(tenant.caller, "title", "m", None)

    async def post(number: int) -> int:
        event, _ = await sessions.append(
            tenant.caller.org_id, session.id, None, EventType.MESSAGE_USER, {"text": str(number)}, None
        )
        assert event.seq is not None
        return event.seq

    seqs = await asyncio.gather(*(post(number) for number in range(100)))
    assert sorted(seqs) == list(range(2, 102))
    log = await sessions.events(tenant.caller.org_id, session.id, 0, 1000)
    assert [event.seq for event in log] == list(range(1, 102))


async def test_a_key_makes_a_repeat_harmless_and_returns_what_was_stored(database: Database, tenant: Tenant) -> None:
    sessions = SqlSessionRepository(database)
    org = tenant.caller.org_id
    session = await sessions.create(tenant.caller, "title", "m", None)
    results = await asyncio.gather(
        *(
            sessions.append(org, session.id, None, EventType.MESSAGE_USER, {"text": f"try {n}"}, "same")
            for n in range(20)
        )
    )
    assert {event.seq for event, _ in results} == {2}
    assert len({event.data["text"] for event, _ in results}) == 1
    assert sorted(duplicate for _, duplicate in results) == [False] + [True] * 19


async def test_creating_with_a_key_twice_gives_one_session(database: Database, tenant: Tenant) -> None:
    sessions = SqlSessionRepository(database)
    made = await asyncio.gather(*(sessions.create(tenant.caller, "title", "m", "key") for _ in range(8)))
    assert len({session.id for session in made}) == 1
    assert made[0].last_seq == 1


async def test_an_old_fencing_token_cannot_write(database: Database, tenant: Tenant) -> None:
    sessions = SqlSessionRepository(database)
    org = tenant.caller.org_id
    session = await sessions.create(tenant.caller, "title", "m", None)
    await sessions.append(org, session.id, None, EventType.MESSAGE_USER, {"text": "hi"}, None, "pending")
    old = await _claim(sessions, "host-a", session.id, ttl_s=0.01)
    await asyncio.sleep(0.05)
    new = await _claim(sessions, "host-b", session.id)
    assert new == old + 1
    with pytest.raises(FencedError):
        await sessions.append(org, session.id, old, EventType.TURN_COMPLETED, {"turn": 2}, None)
    await sessions.append(org, session.id, new, EventType.TURN_COMPLETED, {"turn": 2}, None)


async def test_a_session_is_claimed_by_one_host_until_its_lease_runs_out(database: Database, tenant: Tenant) -> None:
    sessions = SqlSessionRepository(database)
    session = await sessions.create(tenant.caller, "title", "m", None)
    await sessions.append(
        tenant.caller.org_id, session.id, None, EventType.MESSAGE_USER, {"text": "hi"}, None, "pending"
    )
    await _claim(sessions, "host-c", session.id, ttl_s=60)
    for host in ("host-d", "host-c"):
        assert session.id not in {lease.session.id for lease in await sessions.claim(host, 60, 100)}
    assert await sessions.abandon("host-c") >= 1
    assert await _claim(sessions, "host-d", session.id, ttl_s=60) == 2
    await sessions.abandon("host-d")


async def test_release_refuses_when_something_was_posted_since(database: Database, tenant: Tenant) -> None:
    sessions = SqlSessionRepository(database)
    org = tenant.caller.org_id
    session = await sessions.create(tenant.caller, "title", "m", None)
    await sessions.append(org, session.id, None, EventType.MESSAGE_USER, {"text": "hi"}, None, "pending")
    leases = await sessions.claim("host-e", 60, 100)
    lease = next(lease for lease in leases if lease.session.id == session.id)
    assert not await sessions.release(lease, 1)
    assert await sessions.release(lease, 2)
    assert (await sessions.get(org, session.id)).status == "idle"
    await sessions.abandon("host-e")


async def test_another_organisation_finds_nothing(database: Database, tenant: Tenant, other_tenant: Tenant) -> None:
    sessions = SqlSessionRepository(database)
    session = await sessions.create(tenant.caller, "title", "m", None)
    stranger = other_tenant.caller.org_id
    with pytest.raises(NotFoundError):
        await sessions.get(stranger, session.id)
    with pytest.raises(NotFoundError):
        await sessions.append(stranger, session.id, None, EventType.MESSAGE_USER, {"text": "x"}, None)
    assert await sessions.events(stranger, session.id, 0, 10) == []
    assert await sessions.page(stranger, 10, None) == []


async def test_a_page_of_the_log_is_bounded_by_its_bytes(database: Database, tenant: Tenant) -> None:
    sessions = SqlSessionRepository(database)
    org = tenant.caller.org_id
    session = await sessions.create(tenant.caller, "title", "m", None)
    for number in range(12):
        text = f"{number % 10}" * 1_000_000
        await sessions.append(org, session.id, None, EventType.MESSAGE_USER, {"text": text}, None)
    seen: list[int | None] = []
    pages = 0
    while page := await sessions.events(org, session.id, len(seen), 1000):
        assert sum(len(event.data.get("text", "")) for event in page) < 6_000_000
        seen += [event.seq for event in page]
        pages += 1
    assert seen == list(range(1, 14))
    assert pages > 2


async def test_row_level_security_holds_against_sql_that_forgets_the_organisation(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    sessions = SqlSessionRepository(database)
    session = await sessions.create(tenant.caller, "title", "m", None)
    everything = "SELECT id FROM sessions"
    async with database.transaction(other_tenant.caller.org_id) as connection:
        assert (await connection.execute(text(everything))).all() == []
        changed = await connection.execute(text("UPDATE sessions SET title = 'stolen'"))
        assert changed.rowcount == 0
    async with database.transaction(None) as connection:
        for table in ("organisations", "users", "memberships", "api_keys", "sessions", "session_events", "creations"):
            assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0  # noqa: S608 - names from this test
    assert (await sessions.get(tenant.caller.org_id, session.id)).title == "title"


async def _claim(sessions: SqlSessionRepository, host: str, session_id: str, ttl_s: float = 60) -> int:
    for lease in await sessions.claim(host, ttl_s, 1000):
        if lease.session.id == session_id:
            return lease.fence
    raise AssertionError("not claimed")


async def test_a_database_that_does_not_exist_is_told_as_a_wrong_setting(postgres: Server) -> None:
    database = Database(postgres.url.replace("/aether?", "/nowhere?"))
    with pytest.raises(MisconfiguredError, match="AETHER_DATABASE_URL"):
        await database.ping()
    await database.close()
    with pytest.raises(MisconfiguredError, match="AETHER_DATABASE_URL"):
        await migrate(postgres.url.replace("/aether?", "/nowhere?"))
