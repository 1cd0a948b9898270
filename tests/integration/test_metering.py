"""The meter under races and failures: several replicas, one Valkey, one PostgreSQL."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.domain.spending import Budget, Demand, LedgerEntry, Limit, Outcome, Reservation, Scope, Usage
from serve_app.core.errors import BudgetExceededError, RateLimitedError, UnavailableError
from serve_app.core.services.metering import Meter
from serve_app.core.stores.limits.redis import RedisLimitStore
from serve_app.core.telemetry.metrics import NullMetrics
from tests.conftest import Server, Tenant
from tests.spending import entry, unique

_ROOT = Path(__file__).parents[2]
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


class Replicas:
    """Replicas of one gateway; `ledger` reads what they wrote."""

    def __init__(self, valkey: Server, postgres: Server, database: Database, tenant: Tenant) -> None:
        self._urls = {"redis": valkey.url, "database": postgres.url}
        self.namespace = unique("ns")
        self.org_id = tenant.caller.org_id
        self.scope = Scope("organisation", self.org_id)
        self.ledger = SqlLedgerRepository(database)
        self._meters: list[Meter] = []
        self._stores: list[RedisLimitStore] = []

    async def meter(self, *, dead_after_s: float = 20.0, grace_s: float = 0.2, most_held: int = 1000) -> Meter:
        """One in this process."""
        store = RedisLimitStore(
            self._urls["redis"],
            unique("replica"),
            namespace=self.namespace,
            dead_after_s=dead_after_s,
            grace_s=grace_s,
        )
        meter = Meter(store, self.ledger, NullMetrics(), most_held=most_held)
        await meter.start()
        self._meters.append(meter)
        self._stores.append(store)
        return meter

    async def process(self, **task: Any) -> asyncio.subprocess.Process:
        """One in its own process, ready to make its calls when it is sent a line."""
        defaults = {"hold_s": 0.02, "cost": 0, "says_granted": False}
        task = {**self._urls, "namespace": self.namespace, "org_id": self.org_id, **defaults, **task}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.metering_replica",
            json.dumps(task),
            cwd=_ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert await said(process) == "ready"
        return process

    async def race(self, count: int, **task: Any) -> int:
        """How many of the calls of `count` processes were granted."""
        processes = await asyncio.gather(*(self.process(**task) for _ in range(count)))
        for process in processes:
            go(process)
        results = [json.loads(await said(process)) for process in processes]
        for process in processes:
            assert await process.wait() == 0
        return sum(result["granted"] for result in results)

    async def entries(self) -> list[LedgerEntry]:
        return await self.ledger.page(self.org_id, 1000)

    async def written(self, count: int, timeout_s: float = 10.0) -> list[LedgerEntry]:
        async with asyncio.timeout(timeout_s):
            while len(await self.entries()) < count:
                await asyncio.sleep(0.05)
        return await self.entries()

    async def flush(self) -> None:
        await self._stores[0]._line.call("FLUSHALL")

    async def close(self) -> None:
        for meter in self._meters:
            await meter.close()
        for store in self._stores:
            await store.close()

    def demand(self, *, budget: Budget | None = None, limit: Limit | None = None, cost: int = 0) -> Demand:
        name = unique("led")
        made = entry(name, org_id=self.org_id, reserved=cost)
        return Demand(name, (limit,) if limit else (), (budget,) if budget else (), tokens=10, entry=made)

    def budget(self, amount: int) -> Budget:
        return Budget(unique("bud"), self.scope, amount, "month")

    def done(self, reservation: Reservation, cost: int) -> LedgerEntry:
        return entry(reservation.id, org_id=self.org_id, reserved=cost, cost=cost, usage=Usage(input=4, output=6))


def go(process: asyncio.subprocess.Process) -> None:
    assert process.stdin
    process.stdin.write(b"go\n")


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout
    return (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()


@pytest.fixture
async def replicas(valkey: Server, postgres: Server, database: Database, tenant: Tenant) -> AsyncIterator[Replicas]:
    replicas = Replicas(valkey, postgres, database, tenant)
    yield replicas
    await replicas.close()


async def test_a_hundred_requests_at_once_against_the_last_cent_overspend_nothing(replicas: Replicas) -> None:
    cent, cost = 10_000_000, 300_000
    granted = await replicas.race(4, requests=25, budget=unique("bud"), amount=cent, cost=cost, hold_s=0.05)
    entries = await replicas.entries()
    assert granted == len(entries) == cent // cost
    assert sum(one.cost for one in entries) <= cent


async def test_limits_are_exact_over_replicas(replicas: Replicas) -> None:
    began = time.monotonic()
    granted = await replicas.race(3, requests=40, limit={"requests": 60}, hold_s=0.0)
    assert 60 <= granted <= 60 + time.monotonic() - began, "one more a second"
    at_once = await replicas.race(3, requests=10, limit={"concurrency": 7}, hold_s=2.0)
    assert at_once == 7


async def test_a_killed_replica_frees_its_slots_and_its_calls_are_charged_once(replicas: Replicas) -> None:
    scope = Limit(replicas.scope, concurrency=2)
    process = await replicas.process(requests=2, limit={"concurrency": 2}, cost=70, hold_s=1000.0, says_granted=True)
    go(process)
    assert [await said(process) for _ in range(2)] == ["granted"] * 2
    watch = [await replicas.meter(dead_after_s=2.5) for _ in range(2)]
    assert await refused(watch[0], replicas.demand(limit=scope))
    process.send_signal(signal.SIGKILL)
    await process.wait()
    entries = await replicas.written(2)
    abandoned = [one for one in entries if one.outcome is Outcome.ABANDONED]
    assert [(one.cost, one.reserved) for one in abandoned] == [(70, 70), (70, 70)]
    reservations = [await watch[1].admit(replicas.demand(limit=scope)) for _ in range(2)]
    assert await refused(watch[0], replicas.demand(limit=scope))
    for reservation in reservations:
        watch[1].release(reservation)
    await asyncio.sleep(2.0)
    assert len([one for one in await replicas.entries() if one.outcome is Outcome.ABANDONED]) == 2


async def refused(meter: Meter, demand: Demand) -> bool:
    try:
        meter.release(await meter.admit(demand))
    except (RateLimitedError, BudgetExceededError):
        return True
    return False


async def test_a_store_that_forgets_everything_overspends_nothing(replicas: Replicas) -> None:
    one, two = await replicas.meter(grace_s=2.5), await replicas.meter(grace_s=2.5)
    budget = replicas.budget(1000)
    settled = await one.admit(replicas.demand(budget=budget, cost=400))
    one.finish(settled, replicas.done(settled, 300))
    running = await two.admit(replicas.demand(budget=budget, cost=500))
    await replicas.written(1)
    await replicas.flush()
    assert await refused(one, replicas.demand(budget=budget, cost=201))
    last = await one.admit(replicas.demand(budget=budget, cost=200))
    two.finish(running, replicas.done(running, 450))
    one.finish(last, replicas.done(last, 200))
    await replicas.written(3)
    await asyncio.sleep(0.1)
    assert await refused(two, replicas.demand(budget=budget, cost=51))
    assert not await refused(two, replicas.demand(budget=budget, cost=50))


async def test_while_the_database_is_away_calls_go_on_and_no_entry_is_lost(
    replicas: Replicas, postgres: Server
) -> None:
    meter = await replicas.meter()
    away = asyncio.create_task(postgres.kill_and_restart(away_s=1.0))
    for _ in range(30):
        reservation = await meter.admit(replicas.demand(cost=1))
        meter.finish(reservation, replicas.done(reservation, 1))
        await asyncio.sleep(0.02)
    await away
    entries = await replicas.written(30)
    assert len({one.id for one in entries}) == len(entries) == 30
    assert all(one.outcome is Outcome.COMPLETED for one in entries)


async def test_while_the_store_is_away_demands_are_refused_and_ended_calls_are_kept(
    replicas: Replicas, valkey: Server
) -> None:
    meter = await replicas.meter()
    limit, budget = Limit(replicas.scope, concurrency=1), replicas.budget(100)
    reservation = await meter.admit(replicas.demand(limit=limit, budget=budget, cost=60))
    back = asyncio.create_task(valkey.kill_and_restart(away_s=0.5))
    await asyncio.sleep(0.1)
    with pytest.raises(UnavailableError):
        await meter.admit(replicas.demand(limit=limit))
    meter.finish(reservation, replicas.done(reservation, 50))
    await back
    assert [one.cost for one in await replicas.written(1)] == [50]
    async with asyncio.timeout(10):
        while meter._held:
            await asyncio.sleep(0.05)
    assert await refused(meter, replicas.demand(limit=limit, budget=budget, cost=51))
    assert not await refused(meter, replicas.demand(limit=limit, budget=budget, cost=50))


async def test_a_client_that_leaves_while_it_is_admitted_holds_nothing(replicas: Replicas) -> None:
    meter = await replicas.meter()
    limit = Limit(replicas.scope, concurrency=5)
    for turn in range(60):
        task = asyncio.create_task(meter.admit(replicas.demand(limit=limit)))
        await asyncio.sleep(turn / 50_000)
        if not task.cancel():
            meter.release(task.result())
        await asyncio.wait([task])
        if not task.cancelled():
            meter.release(task.result())
    await asyncio.sleep(0.1)
    assert not meter._held
    assert [await refused(meter, replicas.demand(limit=limit)) for _ in range(5)] == [False] * 5


async def test_what_waits_for_the_ledger_is_bounded(replicas: Replicas) -> None:
    meter = await replicas.meter(most_held=3)
    for _ in range(3):
        await meter.admit(replicas.demand())
    with pytest.raises(UnavailableError):
        await meter.admit(replicas.demand())


async def test_an_entry_the_ledger_can_never_take_does_not_hold_up_the_others(replicas: Replicas) -> None:
    meter = await replicas.meter()
    for number in range(5):
        reservation = await meter.admit(replicas.demand())
        # One costs more than the column holds.
        meter.finish(reservation, replicas.done(reservation, 1 << 63 if number == 2 else 1))
    assert len(await replicas.written(4)) == 4
    async with asyncio.timeout(5):
        while meter._held:
            await asyncio.sleep(0.05)


async def test_sums_and_pages_tell_what_was_used(replicas: Replicas, other_tenant: Tenant) -> None:
    meter = await replicas.meter()
    for _ in range(3):
        reservation = await meter.admit(replicas.demand())
        meter.finish(reservation, replicas.done(reservation, 7))
    newest = await replicas.written(3)
    assert await replicas.ledger.page(replicas.org_id, 2) == newest[:2]
    assert await replicas.ledger.page(replicas.org_id, 2, before=newest[1].id) == newest[2:]
    until = datetime.now(UTC) + timedelta(days=1)
    for by, group in (("day", f"{newest[0].at:%Y-%m-%d}"), ("model", "m"), ("user", "usr_none"), ("key", "key_none")):
        found = await replicas.ledger.sums(replicas.org_id, by, _EVER, until)  # type: ignore[arg-type]  # a literal each
        assert [(one.group, one.calls, one.cost, one.usage.output) for one in found] == [(group, 3, 21, 18)]
    assert await replicas.ledger.sums(other_tenant.caller.org_id, "day", _EVER, until) == []
    assert await replicas.ledger.page(other_tenant.caller.org_id, 10) == []
    assert await replicas.ledger.spent(replicas.org_id, replicas.scope, _EVER, [newest[0].id]) == 14
    assert await replicas.ledger.spent(replicas.org_id, Scope("user", "usr_none"), _EVER) == 21
    assert await replicas.ledger.spent(replicas.org_id, Scope("group", "grp_none"), _EVER) == 0
