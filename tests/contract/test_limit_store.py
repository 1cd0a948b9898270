"""The limit and health stores' ports, against a real Valkey."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from serve_app.core.domain.spending import Budget, Demand, Limit, Reservation, Scope, model_key
from serve_app.core.stores.limits.base import (
    Held,
    Limited,
    Reason,
    Spent,
    Unloaded,
    UnregisteredError,
    Unsettled,
    Verdict,
)
from serve_app.core.stores.limits.redis import RedisHealthStore, RedisLimitStore
from tests.conftest import Server
from tests.spending import NOW, entry, unique


@pytest.fixture
async def store(valkey: Server) -> AsyncIterator[RedisLimitStore]:
    store = await _replica(valkey, unique("ns"))
    yield store
    await store.close()


@pytest.fixture
async def health(valkey: Server) -> AsyncIterator[RedisHealthStore]:
    health = RedisHealthStore(
        valkey.url, namespace=unique("ns"), threshold=3, window_s=5, cooldown_s=0.1, longest_s=0.2, probe_s=0.1
    )
    yield health
    await health.close()


async def _replica(valkey: Server, namespace: str, dead_after_s: float = 20.0) -> RedisLimitStore:
    store = RedisLimitStore(valkey.url, unique("replica"), namespace=namespace, dead_after_s=dead_after_s, grace_s=0.0)
    await store.register([])
    return store


async def _ask(store: RedisLimitStore, *demands: Demand) -> list[Verdict]:
    return await store.exchange(
        [], [], [(store.hold(demand, b"{}" if demand.entry else b""), demand) for demand in demands]
    )


def _limit(requests: int | None = None, tokens: int | None = None, concurrency: int | None = None) -> Limit:
    return Limit(Scope("key", unique("key")), requests, tokens, concurrency)


def _demand(*limits: Limit, tokens: int = 0) -> Demand:
    return Demand(unique("led"), limits, tokens=tokens)


def _spend(budget: Budget, cost: int) -> Demand:
    name = unique("led")
    return Demand(name, budgets=(budget,), entry=entry(name, reserved=cost))


def _budget(amount: int) -> Budget:
    return Budget(unique("bud"), Scope("user", "usr"), amount, "month")


async def _load(store: RedisLimitStore, budget: Budget, spent: int) -> None:
    unsettled = await store.unsettled(budget, NOW)
    assert isinstance(unsettled, Unsettled)
    await store.load(budget, NOW, spent, unsettled.generation)


async def test_as_many_requests_pass_as_the_limit_says_and_the_next_is_told_when(store: RedisLimitStore) -> None:
    limit = _limit(requests=6)
    verdicts = await _ask(store, *(_demand(limit) for _ in range(9)))
    assert [isinstance(verdict, Reservation) for verdict in verdicts] == [True] * 6 + [False] * 3
    first, last = verdicts[0], verdicts[-1]
    assert isinstance(first, Reservation)
    assert first.requests
    assert (first.requests.limit, first.requests.remaining) == (6, 5)
    assert isinstance(last, Limited)
    assert (last.limit, last.reason) == (limit, Reason.REQUESTS)
    assert 9.0 < last.retry_after_s <= 10.0
    assert last.requests
    assert last.requests.remaining == 0
    assert 59.0 < last.requests.reset_s <= 60.0


async def test_a_bucket_refills_all_the_time(store: RedisLimitStore) -> None:
    limit = _limit(requests=600)
    await _ask(store, *(_demand(limit) for _ in range(600)))
    assert isinstance((await _ask(store, _demand(limit)))[0], Limited)
    await asyncio.sleep(0.35)
    passed = [v for v in await _ask(store, *(_demand(limit) for _ in range(20))) if isinstance(v, Reservation)]
    assert 3 <= len(passed) <= 8


async def test_all_limits_pass_or_none_is_touched(store: RedisLimitStore) -> None:
    wide, narrow = _limit(requests=10, tokens=1000, concurrency=10), _limit(concurrency=1)
    await _ask(store, _demand(narrow))
    for _ in range(20):
        verdict = (await _ask(store, _demand(wide, narrow, tokens=500)))[0]
        assert isinstance(verdict, Limited)
        assert (verdict.limit, verdict.reason) == (narrow, Reason.CONCURRENCY)
    assert all(isinstance(v, Reservation) for v in await _ask(store, *(_demand(wide) for _ in range(10))))


async def test_tokens_are_corrected_when_the_call_has_ended(store: RedisLimitStore) -> None:
    limit = _limit(tokens=1000)
    demand = _demand(limit, tokens=900)
    held = store.hold(demand, b"")
    await store.exchange([], [], [(held, demand)])
    assert isinstance((await _ask(store, _demand(limit, tokens=200)))[0], Limited)
    held.tokens = 100
    await store.exchange([held], [], [])
    assert isinstance((await _ask(store, _demand(limit, tokens=880)))[0], Reservation)
    too_much = (await _ask(store, _demand(limit, tokens=1001)))[0]
    assert isinstance(too_much, Limited)
    assert too_much.reason is Reason.TOO_LARGE


async def test_a_slot_is_free_again_in_the_turn_that_ends_its_call_and_only_once(store: RedisLimitStore) -> None:
    limit = _limit(concurrency=1)
    first, second = _demand(limit), _demand(limit)
    one, two = store.hold(first, b""), store.hold(second, b"")
    await store.exchange([], [], [(one, first)])
    assert isinstance((await store.exchange([one], [], [(two, second)]))[0], Reservation)
    assert isinstance((await store.exchange([one], [], [(one, first)]))[0], Limited)


async def test_a_budget_must_be_loaded_and_is_then_never_overdrawn(store: RedisLimitStore) -> None:
    budget = _budget(100)
    assert await _ask(store, _spend(budget, 10)) == [Unloaded(budget)]
    await _load(store, budget, 45)
    verdicts = await _ask(store, *(_spend(budget, 10) for _ in range(8)))
    assert sum(isinstance(verdict, Reservation) for verdict in verdicts) == 5
    assert verdicts[-1] == Spent(budget)
    assert isinstance((await _ask(store, _spend(budget, 5)))[0], Reservation)
    assert isinstance((await _ask(store, _spend(budget, 0)))[0], Reservation), "what is free needs no money"


async def test_settling_twice_counts_once(store: RedisLimitStore) -> None:
    budget = _budget(100)
    await _load(store, budget, 0)
    demand = _spend(budget, 60)
    held = store.hold(demand, b"{}")
    await store.exchange([], [], [(held, demand)])
    held.cost = 20
    for _ in range(3):
        await store.exchange([held], [held], [])
    assert isinstance((await _ask(store, _spend(budget, 81)))[0], Spent)
    assert isinstance((await _ask(store, _spend(budget, 80)))[0], Reservation)


async def test_a_sum_that_was_read_while_something_was_settled_does_not_count(
    store: RedisLimitStore, valkey: Server
) -> None:
    budget = _budget(100)
    demand = _spend(budget, 30)
    held = store.hold(demand, b"{}")
    await _load(store, budget, 0)
    await store.exchange([], [], [(held, demand)])
    await _forget(store)
    await store.register([held])
    unsettled = await store.unsettled(budget, NOW)
    assert isinstance(unsettled, Unsettled)
    assert unsettled.ids == [held.id]
    held.cost = 30
    await store.exchange([held], [held], [])
    await store.load(budget, NOW, 0, unsettled.generation)
    assert await _ask(store, _spend(budget, 71)) == [Unloaded(budget)]
    await _load(store, budget, 30)
    assert await _ask(store, _spend(budget, 71)) == [Spent(budget)]


async def _forget(store: RedisLimitStore) -> None:
    keys = await store._line.call("KEYS", f"{store._namespace}:*")
    await store._line.call("DEL", *keys)


async def test_a_store_that_forgot_everything_is_told_again_once(store: RedisLimitStore) -> None:
    limit, budget = _limit(concurrency=2), _budget(100)
    name = unique("led")
    demand = Demand(name, (limit,), (budget,), entry=entry(name, reserved=60))
    held = store.hold(demand, b"{}")
    await _load(store, budget, 0)
    await store.exchange([], [], [(held, demand)])
    await _forget(store)
    with pytest.raises(UnregisteredError):
        await _ask(store, _demand(limit))
    assert await store.register([held])
    assert await store.register([held]), "its answer was lost, say"
    assert [type(v) for v in await _ask(store, _demand(limit), _demand(limit))] == [Reservation, Limited]
    await _load(store, budget, 0)
    assert await _ask(store, _spend(budget, 41)) == [Spent(budget)]


async def test_a_restarted_server_begins_anew_with_what_replicas_know(store: RedisLimitStore, valkey: Server) -> None:
    other = await _replica(valkey, store._namespace)
    limit, budget = _limit(concurrency=2), _budget(100)
    await _load(store, budget, 0)
    demand = _demand(limit)
    held = store.hold(demand, b"")
    await store.exchange([], [], [(held, demand)])
    await valkey.kill_and_restart()
    with pytest.raises(UnregisteredError):
        await store.beat()
    await store.register([held])
    with pytest.raises(UnregisteredError):
        await other.beat()
    await other.register([])
    assert [type(v) for v in await _ask(other, _demand(limit), _demand(limit))] == [Reservation, Limited]
    assert await _ask(store, _spend(budget, 1)) == [Unloaded(budget)], "what it says was spent may be old"
    await other.close()


async def test_what_a_dead_replica_held_is_taken_over_and_its_slots_are_free(valkey: Server) -> None:
    namespace = unique("ns")
    dead = await _replica(valkey, namespace)
    alive = await _replica(valkey, namespace, dead_after_s=0.2)
    limit, budget = _limit(concurrency=2), _budget(100)
    await _load(alive, budget, 0)
    name = unique("led")
    call = Demand(name, (limit,), (budget,), entry=entry(name, reserved=60))
    place = _demand(limit)
    held = [dead.hold(call, b'{"cost":60}'), dead.hold(place, b"")]
    await dead.exchange([], [], [(held[0], call), (held[1], place)])
    await asyncio.sleep(0.3)
    taken = await alive.beat()
    assert [(one.id, one.entry) for one in taken] == [(name, b'{"cost":60}')]
    assert await alive.beat() == []
    assert await alive.strays([]) == ([], taken), "it stays until the ledger has it"
    assert [type(v) for v in await _ask(alive, _demand(limit), _demand(limit))] == [Reservation, Reservation]
    assert await _ask(alive, _spend(budget, 41)) == [Spent(budget)]
    await alive.exchange([], [Held(name, b"", b"", cost=60)], [])
    assert await _ask(alive, _spend(budget, 41)) == [Spent(budget)]
    assert isinstance((await _ask(alive, _spend(budget, 40)))[0], Reservation)
    with pytest.raises(UnregisteredError):
        await dead.exchange([held[0]], [], [])
    assert not await dead.register(held), "it was only slow, and is told so"
    await dead.exchange([held[0]], [held[0]], [])
    for one in (dead, alive):
        await one.close()


async def test_a_grant_whose_answer_was_lost_is_found(store: RedisLimitStore) -> None:
    known, lost = _demand(), _demand()
    await _ask(store, known, lost)
    assert await store.strays([known.id]) == ([lost.id], [])


async def test_a_breaker_opens_lets_one_probe_through_and_closes(health: RedisHealthStore) -> None:
    assert [await health.fail("k") for _ in range(2)] == [0.0, 0.0]
    assert await health.fail("k") == pytest.approx(0.1)
    cooldowns, half_open = await health.cooldowns(["k", "other"])
    assert cooldowns == {"k": pytest.approx(0.1, abs=0.05)}
    assert not half_open
    assert not await health.probe("k", "a")
    await asyncio.sleep(0.12)
    assert await health.cooldowns(["k"]) == ({}, frozenset({"k"}))
    assert [await health.probe("k", ticket) for ticket in "abc"] == [True, False, False]
    assert await health.fail("k") == pytest.approx(0.2), "twice as long"
    await asyncio.sleep(0.22)
    assert await health.probe("k", "d")
    await asyncio.sleep(0.12)
    assert await health.probe("k", "e"), "the probe before was lost"
    await health.succeed("k")
    assert await health.cooldowns(["k"]) == ({}, frozenset())


async def test_a_probe_without_a_verdict_lets_the_next_one_go(valkey: Server) -> None:
    health = RedisHealthStore(valkey.url, namespace=unique("ns"), threshold=1, cooldown_s=0.01, probe_s=30)
    await health.fail("k")
    await asyncio.sleep(0.02)
    assert await health.probe("k", "a")
    await health.release("k", "b")
    assert not await health.probe("k", "b"), "a ticket that was never out ends nobody's probe"
    await health.release("k", "a")
    assert await health.cooldowns(["k"]) == ({}, frozenset({"k"})), "it still has to prove itself"
    assert await health.probe("k", "b")
    await health.fail("k")
    await health.release("k", "b")
    assert (await health.cooldowns(["k"]))[0]["k"] > 0, "a verdict stays"
    await health.close()


async def test_failures_far_apart_do_not_open_it(valkey: Server) -> None:
    health = RedisHealthStore(valkey.url, namespace=unique("ns"), threshold=2, window_s=0.05)
    for _ in range(4):
        assert await health.fail("k") == 0.0
        await asyncio.sleep(0.06)
    await health.close()


async def test_a_key_rests_as_long_as_its_provider_says(health: RedisHealthStore) -> None:
    await health.cool("k", 30)
    await health.cool("k", 10)
    cooldowns, half_open = await health.cooldowns(["k"])
    assert cooldowns["k"] == pytest.approx(30, abs=1)
    assert not half_open


async def test_a_key_rests_for_one_model(health: RedisHealthStore) -> None:
    await health.cool("k", 0.01, "gone")
    await asyncio.sleep(0.02)
    await health.cool("k", 30, "gpt:1")
    await health.cool("k", 10, "gpt:1")
    await health.cool("k", 20, "mini")
    resting = {model_key("k", "gpt:1"): pytest.approx(30, abs=1), model_key("k", "mini"): pytest.approx(20, abs=1)}
    assert (await health.cooldowns(["k", "other"]))[0] == resting
    await health.succeed("k")
    assert (await health.cooldowns(["k"]))[0] == resting, "what works for one model is limited for another"
    for _ in range(3):
        await health.fail("k")
    cooldowns, _ = await health.cooldowns(["k"])
    assert cooldowns == {**resting, "k": pytest.approx(0.1, abs=0.05)}


async def test_demands_are_told_the_health_of_the_keys_they_name(valkey: Server) -> None:
    store = await _replica(valkey, unique("ns"))
    health = RedisHealthStore(valkey.url, namespace=store._namespace, threshold=1, cooldown_s=0.01)
    await health.fail("tried")
    await health.cool("resting", 30)
    await health.cool("well", 20, "gpt")
    await asyncio.sleep(0.02)
    verdict = (await _ask(store, Demand(unique("led"), health=("tried", "resting", "well"))))[0]
    assert isinstance(verdict, Reservation)
    limited = model_key("well", "gpt")
    assert verdict.cooldowns == {"resting": pytest.approx(30, abs=1), limited: pytest.approx(20, abs=1)}
    assert verdict.half_open == {"tried"}
    await health.close()
    await store.close()


async def test_retries_are_a_share_of_the_requests(valkey: Server) -> None:
    health = RedisHealthStore(valkey.url, namespace=unique("ns"), retry_share=0.1, retries_per_s=0.0)
    assert sum([await health.may_retry("p") for _ in range(30)]) == 10, "what there is at first"
    for _ in range(50):
        health.began("p")
    assert sum([await health.may_retry("p") for _ in range(30)]) == 5
    await health.close()
