"""Fronts: what is cached here and changed elsewhere, and what keeps alive what is in use."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.front import Sandboxes
from actors.sandbox.pool import Pool
from configs.sandboxes import Profile
from serve_app.core.domain.ids import SandboxId
from serve_app.core.domain.sandboxes import Door, SandboxState
from serve_app.core.errors import (
    AtCapacityError,
    BudgetExceededError,
    SandboxEndedError,
    SandboxLostError,
    UnavailableError,
)
from serve_app.core.telemetry import NullMetrics
from tests.doubles.sandbox_nodes import IDLE_S, KEEP_S, PROFILE, World, running_world
from tests.doubles.sandboxes import ScriptedClient, settled
from tests.sandboxes import LocalPools, NoOutlets, profiles_of


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        yield world


# --- what is cached here, and changed elsewhere ---


async def test_what_another_front_stored_comes_back_at_the_next_use(world: World) -> None:
    made = await world.front.create(world.caller, None)
    mine = await world.client(made)
    await world.other.pause(world.caller, made.id)
    # The cached client loses its connections, finds out that nobody is there, or is too old.
    mine.lost_connections += 1
    assert await world.client(made) is not mine
    theirs = await world.client(made, world.other)
    await world.front.pause(world.caller, made.id)
    world.clock.passed_s += 11
    assert await world.client(made, world.other) is not theirs


async def test_a_connection_that_is_lost_is_no_lost_sandbox(world: World) -> None:
    made = await world.front.create(world.caller, None)
    mine = await world.client(made)
    mine.lost_connections += 1
    assert await world.client(made) is mine
    world.pools.silent.add("node-1")
    assert await world.client(made) is mine, "its pool has been asked already"


async def test_what_another_front_stored_can_be_snapshot_and_paused(world: World) -> None:
    made = await world.front.create(world.caller, None)
    stored = await world.other.pause(world.caller, made.id)
    assert (await world.front.snapshot(world.caller, made.id)).id == stored.snapshot_id
    assert (await world.front.pause(world.caller, made.id)).snapshot_id == stored.snapshot_id


async def test_what_sleeps_is_snapshot_and_stored_without_waking_it(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.passes(IDLE_S + 1)
    world.meters.spent = True
    await world.front.snapshot(world.caller, made.id)
    assert world.row(made.id).state is SandboxState.FROZEN
    assert (await world.front.pause(world.caller, made.id)).state is SandboxState.STORED


async def test_one_that_died_with_its_pool_comes_back_or_is_lost(world: World) -> None:
    kept, lost = [await world.front.create(world.caller, None) for _ in range(2)]
    await world.front.snapshot(world.caller, kept.id)
    # Its rows are not buried: the fronts find out by themselves.
    world.registry.pools.clear()
    await world.restart("node-1")
    with pytest.raises(SandboxLostError) as told:
        await world.front.snapshot(world.caller, lost.id)
    assert told.value.retryable
    world.clock.passed_s += 11
    with pytest.raises(SandboxEndedError) as ended:
        await world.client(lost)
    assert ended.value.details == {"reason": "lost"}
    await world.client(kept)
    assert world.row(kept.id).fence == 2


async def test_one_on_a_node_that_left_comes_back_elsewhere(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.snapshot(world.caller, made.id)
    del world.pools.pools["node-1"]
    world.clock.passed_s += 11
    await world.client(made)
    assert world.row(made.id).node_id == "node-2"


async def test_one_whose_pool_does_not_answer_is_not_given_up(world: World) -> None:
    made = await world.front.create(world.caller, None)
    world.pools.silent.add("node-1")
    world.clock.passed_s += 11
    with pytest.raises(UnavailableError) as told:
        await world.client(made)
    assert told.value.retryable
    assert world.row(made.id).state is SandboxState.RUNNING
    world.pools.silent.clear()
    assert await world.client(made)


# --- renewal ---


async def test_what_is_in_use_is_renewed_and_what_is_not_is_forgotten(world: World) -> None:
    busy, idle = [await world.front.create(world.caller, None) for _ in range(2)]
    held, left = await world.client(busy), await world.client(idle)
    held.busy = True
    for _ in range(IDLE_S + KEEP_S + 10):
        await world.passes(1)
        await world.front.renew_used()
    assert world.row(busy.id).state is SandboxState.RUNNING
    assert left.is_closed
    assert world.row(idle.id).state is SandboxState.STORED
    assert set(world.registry.touched) == {busy.id}
    # Every five seconds, and not with each look.
    assert len(world.pools.renewed) < (IDLE_S + KEEP_S) / 4


async def test_a_short_lease_is_renewed_in_time(world: World) -> None:
    brief = Profile(id="brief", warm=0, idle_s=8, keep_s=600)
    pool = Pool(
        "node-1", profiles_of(brief), {"bubblewrap": world.backends["node-1"]}, world.registry, world.workspaces,
        world.meters, NoOutlets(), world.clock, NullMetrics(), dial=lambda *_: ScriptedClient(),
        free_memory=lambda: 1 << 40,
    )  # fmt: skip
    await pool.start()
    front = Sandboxes(world.registry, LocalPools({"node-1": pool}), profiles_of(brief), world.clock, dial=world._dial)
    made = await front.create(world.caller, None)
    (await world.client(made, front)).busy = True
    for _ in range(60):
        world.clock.passed_s += 1
        await front.renew_used()
        pool.tend()
        await settled()
        assert world.row(made.id).state is SandboxState.RUNNING
    await front.close()
    await pool.close()


async def test_one_node_that_is_silent_keeps_no_other_from_renewal(world: World) -> None:
    here = await world.front.create(world.caller, None)
    world.pools.pools = dict(reversed(world.pools.pools.items()))
    there = await world.front.create(world.caller, None)
    assert {here.node_id, there.node_id} == {"node-1", "node-2"}
    for made in (here, there):
        (await world.client(made)).busy = True
    world.pools.silent.add("node-1")
    for _ in range(60):
        await world.passes(10)
        await world.front.renew_used()
    assert world.row(here.id).state is SandboxState.FROZEN
    assert world.row(there.id).state is SandboxState.RUNNING
    world.pools.silent.clear()
    await world.passes(10)
    await world.front.renew_used()
    await settled()
    assert world.row(here.id).state is SandboxState.RUNNING


async def test_renewal_outlives_what_goes_wrong(world: World) -> None:
    made = await world.front.create(world.caller, None)
    (await world.client(made)).busy = True
    await world.front.start()
    world.registry.fails = BudgetExceededError("of all things")
    world.clock.passed_s += 6
    await asyncio.sleep(1.2)
    before = len(world.pools.renewed)
    assert before
    world.registry.fails = None
    world.clock.passed_s += 6
    await asyncio.sleep(1.2)
    assert len(world.pools.renewed) > before


async def test_a_lease_that_is_gone_is_forgotten_by_renewal(world: World) -> None:
    made = await world.front.create(world.caller, None)
    mine = await world.client(made)
    mine.busy = True
    await world.other.pause(world.caller, made.id)
    world.clock.passed_s += 6
    await world.front.renew_used()
    assert mine.is_closed
    assert await world.client(made) is not mine


async def test_no_room_is_told_and_leaves_it_stored(world: World) -> None:
    made = await world.front.create(world.caller, None)
    await world.front.pause(world.caller, made.id)
    for _ in range(PROFILE.most):
        await world.front.create(world.caller, None)
    with pytest.raises(AtCapacityError):
        await world.client(made)
    assert world.row(made.id).state is SandboxState.STORED


async def test_doors_are_dialled_from_the_node_of_the_front(world: World) -> None:
    dialled: list[tuple[Door, str]] = []

    def dial(door: Door, sandbox_id: SandboxId, node_id: str) -> SandboxClient:
        dialled.append((door, node_id))
        return ScriptedClient()

    front = Sandboxes(world.registry, world.pools, profiles_of(PROFILE), world.clock, dial=dial)
    made = await front.create(world.caller, None)
    assert made.lease is not None
    assert dialled == [(made.lease.door, "node-1")]
    assert Path(made.lease.door.path).name.startswith("sbx_")
    await front.close()
