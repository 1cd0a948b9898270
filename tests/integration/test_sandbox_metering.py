"""Sandboxes and money: slices over a real Valkey and PostgreSQL, whose time a test owns."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from actors.sandbox.metering import SandboxMeterage, SandboxMeters
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.domain.ids import new_key_id, new_sandbox_id
from serve_app.core.domain.sandboxes import Sandbox, SandboxState
from serve_app.core.domain.spending import LedgerEntry, Limit, Outcome, Scope, ScopeKind
from serve_app.core.errors import BudgetExceededError
from serve_app.core.services.metering import Meter
from serve_app.core.stores.limits.redis import RedisLimitStore
from serve_app.core.telemetry import NullMetrics
from tests.conftest import Server, Tenant
from tests.spending import unique

SLICE_S = 60.0
KEY = new_key_id()
PRICE = 1000
"""Nano-dollars a second."""


@dataclass
class OwnClock:
    at_s: float = 0.0
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def now(self) -> datetime:
        return self.began + timedelta(seconds=self.at_s)

    def monotonic(self) -> float:
        return self.at_s


class Pool:
    """What a pool has for metering: one meter, one clock."""

    def __init__(self, valkey: Server, database: Database, tenant: Tenant, namespace: str) -> None:
        self.clock = OwnClock()
        self.store = RedisLimitStore(valkey.url, unique("pool"), namespace=namespace, dead_after_s=1.0, grace_s=0.1)
        self.ledger = SqlLedgerRepository(database)
        self.meter = Meter(self.store, self.ledger, NullMetrics())
        self.gateway = SqlGatewayRepository(database)
        self.meters = SandboxMeters(self.meter, self.gateway, self.clock)
        self.caller = tenant.caller.model_copy(update={"key_id": KEY})

    def meterage(self, price: int = PRICE) -> SandboxMeterage:
        now = self.clock.now()
        sandbox = Sandbox(
            new_sandbox_id(), self.caller.org_id, self.caller.user_id, None, "default", SandboxState.RUNNING, 1, None,
            None, None, (), now, now, None, None, self.caller.key_id,
        )  # fmt: skip
        return self.meters.of(sandbox, price)

    async def written(self, count: int) -> list[LedgerEntry]:
        async with asyncio.timeout(10):
            while len(entries := await self.ledger.page(self.caller.org_id, 100)) < count:
                await asyncio.sleep(0.05)
        return entries


@pytest.fixture
async def pool(valkey: Server, database: Database, tenant: Tenant) -> AsyncIterator[Pool]:
    pool = Pool(valkey, database, tenant, unique("ns"))
    await pool.meter.start()
    yield pool
    await pool.meter.close()
    await pool.store.close()


async def test_it_is_charged_by_what_it_ran(pool: Pool, tenant: Tenant) -> None:
    meterage = pool.meterage()
    await meterage.begin()
    await meterage.begin()
    for _ in range(70):
        pool.clock.at_s += 1
        await meterage.tick()
    await meterage.end()
    await meterage.end()
    # Frozen: nothing runs, and nothing is charged.
    pool.clock.at_s += 500
    await meterage.tick()
    await meterage.begin()
    pool.clock.at_s += 5
    await meterage.end()
    entries = await pool.written(3)
    assert sum(entry.cost for entry in entries) == 75 * PRICE
    assert sum(entry.duration_ms for entry in entries) == 75_000
    first = entries[-1]
    assert (first.model, first.provider, first.dialect) == ("sandbox/default", "sandbox", "sandbox")
    assert (first.user_id, first.key_id) == (tenant.caller.user_id, KEY)
    assert {entry.outcome for entry in entries} == {Outcome.COMPLETED}


@pytest.mark.parametrize("kind", ["organisation", "user", "key", "group"])
async def test_each_budget_binds(pool: Pool, tenant: Tenant, kind: ScopeKind) -> None:
    group = await pool.gateway.add_group(tenant.caller.org_id, "g")
    await pool.gateway.set_members(tenant.caller.org_id, group.id, [tenant.caller.user_id])
    names = {
        "organisation": tenant.caller.org_id, "user": tenant.caller.user_id, "key": KEY,
        "group": group.id,
    }  # fmt: skip
    scope = Scope(kind, names[kind])
    await pool.gateway.add_budget(tenant.caller.org_id, scope, int(2.5 * SLICE_S * PRICE), "total")
    meterage = pool.meterage()
    await meterage.begin()
    with pytest.raises(BudgetExceededError):
        await ticking(pool, meterage)
    # Told before what is paid for is over.
    assert 2 * SLICE_S - 10 < pool.clock.at_s < 2 * SLICE_S
    await meterage.end()
    entries = await pool.written(2)
    assert sum(entry.cost for entry in entries) == int(pool.clock.at_s * PRICE)
    with pytest.raises(BudgetExceededError):
        await pool.meterage().begin()


async def ticking(pool: Pool, meterage: SandboxMeterage) -> None:
    for _ in range(1000):
        pool.clock.at_s += 1
        await meterage.tick()


async def test_what_costs_nothing_is_written_and_bound_by_nothing(pool: Pool, tenant: Tenant) -> None:
    org = tenant.caller.org_id
    await pool.gateway.add_budget(org, Scope("organisation", org), 0, "total")
    await pool.gateway.set_limit(org, Limit(Scope("organisation", org), requests=1, concurrency=1))
    free = [pool.meterage(0) for _ in range(3)]
    for meterage in free:
        await meterage.begin()
        pool.clock.at_s += 1
        await meterage.end()
    assert [entry.cost for entry in await pool.written(3)] == [0, 0, 0]


async def test_ticks_at_once_reserve_one_slice(pool: Pool) -> None:
    meterage = pool.meterage()
    await meterage.begin()
    pool.clock.at_s += SLICE_S - 1
    await asyncio.gather(*(meterage.tick() for _ in range(20)))
    await asyncio.gather(meterage.tick(), meterage.end(), meterage.tick())
    entries = await pool.written(2)
    await asyncio.sleep(0.5)
    assert len(await pool.written(2)) == 2
    assert sum(entry.cost for entry in entries) == int(SLICE_S - 1) * PRICE


async def test_a_pool_that_dies_is_charged_what_it_reserved(
    pool: Pool, valkey: Server, database: Database, tenant: Tenant
) -> None:
    namespace = unique("ns")
    dying, heir = (Pool(valkey, database, tenant, namespace) for _ in range(2))
    await dying.meter.start()
    meterage = dying.meterage()
    await meterage.begin()
    for task in dying.meter._tasks:
        task.cancel()
    await dying.store.close()
    await heir.meter.start()
    [entry] = await heir.written(1)
    assert (entry.outcome, entry.cost) == (Outcome.ABANDONED, int(SLICE_S * PRICE))
    await heir.meter.close()
    await heir.store.close()
