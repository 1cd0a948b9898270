"""Fronts: sandboxes made, brought back, ended and copied."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.core.domain.sandboxes import EndReason, Sandbox, SandboxState, Service
from serve_app.core.errors import (
    BudgetExceededError,
    NotFoundError,
    QuotaExceededError,
    SandboxEndedError,
    TimedOutError,
    UnavailableError,
    UnknownProfileError,
)
from tests.doubles.sandbox_nodes import IDLE_S, KEEP_S, World, running_world
from tests.doubles.sandbox_rows import new_caller
from tests.doubles.sandboxes import settled


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


# --- making ---


async def test_a_new_one_runs(world: World) -> None:
    made = await world.front.create(world.caller, None, services=[Service(name="web", argv=("serve",))])
    assert made.state is SandboxState.RUNNING
    assert world.row(made.id).lease == made.lease
    assert await world.client(made) is await world.client(made)


async def test_an_unknown_profile_is_told_with_those_there_are(world: World) -> None:
    with pytest.raises(UnknownProfileError, match="Profiles: small"):
        await world.front.create(world.caller, "large")
    assert not world.registry.rows


async def test_one_that_cannot_be_started_is_no_more(world: World) -> None:
    world.meters.spent = True
    with pytest.raises(BudgetExceededError):
        await world.front.create(world.caller, None)
    [row] = world.registry.rows.values()
    assert (row.state, row.end_reason) == (SandboxState.ENDED, EndReason.FAILED)


async def test_whoever_leaves_while_it_starts_leaves_nothing(world: World) -> None:
    backend = world.backends["node-1"]
    backend.gate.clear()
    making = [asyncio.create_task(world.front.create(world.caller, None)) for _ in range(3)]
    await settled()
    for task in making:
        task.cancel()
    await asyncio.gather(*making, return_exceptions=True)
    backend.gate.set()
    await settled()
    assert all(row.state in {SandboxState.ENDED, SandboxState.RUNNING} for row in world.registry.rows.values())
    assert world.pools.pools["node-1"].leased == sum(
        row.state is SandboxState.RUNNING for row in world.registry.rows.values()
    )


async def test_the_same_request_twice_makes_one(world: World) -> None:
    first, second = await asyncio.gather(
        world.front.create(world.caller, None, idempotency_key="k"),
        world.other.create(world.caller, None, idempotency_key="k"),
    )
    assert first.id == second.id
    assert len(world.registry.rows) == 1
    assert second.state is SandboxState.RUNNING
    again = await world.front.create(world.caller, None, idempotency_key="k")
    assert again.id == first.id


async def test_the_same_request_after_a_failed_one_makes_another(world: World) -> None:
    """The second waits for the first's start, which fails: it then makes its own."""
    backend = world.backends["node-1"]
    backend.gate.clear()
    # It takes the one that waits ready.
    await world.front.create(world.caller, None)
    backend.failures = [UnavailableError("broken")]
    first = asyncio.create_task(world.front.create(world.caller, None, idempotency_key="k"))
    await settled()
    second = asyncio.create_task(world.other.create(world.caller, None, idempotency_key="k"))
    await settled()
    backend.gate.set()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(outcomes[0], UnavailableError)
    assert isinstance(outcomes[1], Sandbox)
    assert outcomes[1].state is SandboxState.RUNNING


async def test_the_quota_holds_when_one_is_brought_back(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    world.registry.quota = 1
    await world.front.create(world.caller, None)
    with pytest.raises(QuotaExceededError):
        await world.client(made)
    assert world.row(made.id).state is SandboxState.STORED


async def test_nobody_elses(world: World) -> None:
    made = await world.front.create(world.caller, None)
    stranger = new_caller()
    calls = (world.front.client, world.front.snapshot, world.front.pause, world.front.fork, world.front.delete)
    for call in calls:
        with pytest.raises(NotFoundError):
            await call(stranger, made.id)
    assert world.row(made.id).state is SandboxState.RUNNING


# --- sleeping and coming back ---


async def test_use_wakes_what_sleeps(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.passes(IDLE_S + 1)
    assert world.row(made.id).state is SandboxState.FROZEN
    await world.client(made)
    assert world.row(made.id).state is SandboxState.RUNNING


async def test_use_brings_back_what_was_stored(world: World) -> None:
    made = await world.front.create(world.caller, None)
    first = await world.client(made)
    await world.passes(IDLE_S + 1)
    await world.passes(KEEP_S + 1)
    assert world.row(made.id).state is SandboxState.STORED
    second = await world.client(made)
    assert second is not first
    assert first.is_closed
    row = world.row(made.id)
    assert (row.state, row.fence) == (SandboxState.RUNNING, 2)
    assert world.workspaces.restored == [row.snapshot_id]


async def test_it_comes_back_where_its_files_were(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    world.pools.pools = dict(reversed(world.pools.pools.items()))
    await world.client(made)
    assert world.row(made.id).node_id == made.node_id


async def test_a_spent_budget_keeps_it_stored(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    world.meters.spent = True
    with pytest.raises(BudgetExceededError):
        await world.client(made)
    assert world.row(made.id).state is SandboxState.STORED
    world.meters.spent = False
    assert await world.client(made)


async def test_a_spent_budget_keeps_it_asleep(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.passes(IDLE_S + 1)
    world.meters.spent = True
    with pytest.raises(BudgetExceededError):
        await world.client(made)
    assert world.row(made.id).state is SandboxState.FROZEN


async def test_two_fronts_start_it_once(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    await asyncio.gather(*(world.client(made, front) for front in (world.front, world.other) for _ in range(3)))
    assert world.row(made.id).fence == 2
    assert sum(pool.leased for pool in world.pools.pools.values()) == 1


async def test_a_starter_that_went_silent_is_followed_by_another(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    # Somebody else begins it, and is never heard of again.
    await world.registry.begin(world.caller.org_id, made.id)
    waiting = asyncio.create_task(world.client(made))
    await asyncio.sleep(0.25)
    assert not waiting.done()
    world.clock.passed_s += 31
    await asyncio.wait_for(waiting, 5)
    assert world.row(made.id).fence == 3


async def test_waiting_for_somebodys_start_has_an_end(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    await world.registry.begin(world.caller.org_id, made.id)
    world.registry.started_at[made.id] = 1e9
    waiting = asyncio.create_task(world.client(made))
    await asyncio.sleep(0.15)
    world.clock.passed_s += 61
    with pytest.raises(TimedOutError):
        await asyncio.wait_for(waiting, 5)


async def test_what_takes_long_to_come_back_goes_on_without_those_who_left(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    world.workspaces.gate.clear()
    leaves, waits, queues = [asyncio.create_task(world.client(made)) for _ in range(3)]
    await settled()
    leaves.cancel()
    await asyncio.sleep(0.15)
    # Its pool says meanwhile that it is at it.
    world.registry.started_at[made.id] = 61
    world.clock.passed_s += 61
    for task in (waits, queues):
        with pytest.raises(TimedOutError) as told:
            await asyncio.wait_for(task, 5)
        assert told.value.retryable
    assert world.row(made.id).state is SandboxState.STARTING
    # Whoever tries again waits for the same start.
    again = asyncio.create_task(world.client(made))
    await asyncio.sleep(0.15)
    world.workspaces.gate.set()
    client = await asyncio.wait_for(again, 5)
    assert world.row(made.id).fence == 2
    assert not client.is_closed
    assert await world.client(made) is client


async def test_a_front_that_closes_gives_up_what_it_starts(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    world.workspaces.gate.clear()
    leaves = asyncio.create_task(world.client(made))
    await settled()
    leaves.cancel()
    await world.front.close()
    assert world.row(made.id).state is SandboxState.STORED
    world.workspaces.gate.set()


async def test_a_starter_that_was_taken_for_dead_gives_way(world: World) -> None:
    """Its order comes to the pool when another front has taken the next fence: it uses that one's."""
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)

    def fence_off() -> None:
        world.pools.before_lease = None
        row = world.row(made.id)
        world.registry.rows[made.id] = replace(row, fence=row.fence + 1)
        world.registry.started_at[made.id] = -31

    world.pools.before_lease = fence_off
    await world.client(made)
    assert world.row(made.id).fence == 4
    assert sum(pool.leased for pool in world.pools.pools.values()) == 1


# --- the end, and copies ---


async def test_deleting_ends_it_here_and_there(world: World) -> None:
    made = await world.front.create(world.caller, None)
    mine, theirs = await world.client(made), await world.client(made, world.other)
    await world.front.delete(world.caller, made.id)
    assert mine.is_closed
    assert world.pools.pools["node-1"].leased == 0
    with pytest.raises(SandboxEndedError):
        await world.client(made)
    theirs.lost = True
    with pytest.raises(SandboxEndedError):
        await world.client(made, world.other)
    await world.front.delete(world.caller, made.id)


async def test_deleting_one_that_starts_ends_it(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    world.workspaces.gate.clear()
    starting = asyncio.create_task(world.client(made))
    await settled()
    assert world.row(made.id).state is SandboxState.STARTING
    await world.other.delete(world.caller, made.id)
    world.workspaces.gate.set()
    with pytest.raises(SandboxEndedError):
        await starting
    assert world.pools.pools["node-1"].leased == 0


async def test_deleting_ends_what_another_front_started(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    await world.client(made, world.other)
    await world.front.delete(world.caller, made.id)
    assert world.pools.pools["node-1"].leased == 0


async def test_deleting_does_not_wait_for_a_node_that_is_silent(world: World) -> None:
    made = await world.front.create(world.caller, None)
    world.pools.silent.add("node-1")
    await world.front.delete(world.caller, made.id)
    assert world.row(made.id).state is SandboxState.ENDED
    world.pools.silent.clear()
    await world.passes(IDLE_S + 1)
    assert world.pools.pools["node-1"].leased == 0


async def test_a_fork_has_the_workspace_as_it_is_now(world: World) -> None:
    made = await world.front.create(world.caller, None, services=[Service(name="web", argv=("serve",))])
    fork = await world.front.fork(world.caller, made.id)
    assert (fork.state, fork.services) == (SandboxState.STORED, made.services)
    assert fork.snapshot_id == world.row(made.id).snapshot_id
    await world.client(fork)
    assert world.workspaces.restored == [fork.snapshot_id]
    assert world.row(made.id).state is SandboxState.RUNNING
    second = await world.front.fork(world.caller, fork.id)
    assert second.snapshot_id != fork.snapshot_id


async def test_a_fork_of_another_ones_snapshot_is_refused(world: World) -> None:
    made, other = [await world.front.create(world.caller, None) for _ in range(2)]
    snapshot = await world.front.snapshot(world.caller, made.id)
    await world.front.snapshot(world.caller, made.id)
    assert (await world.front.fork(world.caller, made.id, snapshot.id)).snapshot_id == snapshot.id
    with pytest.raises(NotFoundError):
        await world.front.fork(world.caller, other.id, snapshot.id)
