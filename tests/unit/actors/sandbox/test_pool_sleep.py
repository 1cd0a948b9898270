"""Pools: sleep, snapshots, storing, budgets, limits of time."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from actors.sandbox.ports import Held
from serve_app.core.domain.ids import new_lease_id
from serve_app.core.domain.sandboxes import EndReason, SandboxState
from serve_app.core.errors import (
    BudgetExceededError,
    FencedError,
    SandboxFullError,
    SandboxLostError,
    SandboxProtocolError,
    UnavailableError,
)
from tests.doubles.sandbox_nodes import IDLE_S, KEEP_S, WALL_S, Node, held, running_node
from tests.doubles.sandboxes import settled


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running_node() as node:
        yield node


# --- sleep ---


async def test_the_idle_freeze_and_wake(node: Node) -> None:
    lease = await node.asleep()
    assert node.started(lease).is_frozen
    assert node.meters.open == 0
    assert await node.pool.wake(held(lease))
    assert not node.started(lease).is_frozen
    assert (node.row(lease).state, node.meters.open) == (SandboxState.RUNNING, 1)


async def test_use_keeps_awake(node: Node) -> None:
    lease = await node.lease()
    for _ in range(10):
        await node.passes(IDLE_S - 1)
        assert await node.pool.renew([held(lease)]) == []
    assert node.row(lease).state is SandboxState.RUNNING


async def test_renewal_wakes_what_was_frozen_too_early(node: Node) -> None:
    lease = await node.asleep()
    assert await node.pool.renew([held(lease)]) == []
    await settled()
    assert node.row(lease).state is SandboxState.RUNNING


async def test_a_backend_that_cannot_freeze_has_its_supervisor_do_it(node: Node) -> None:
    node.backend.can_freeze = False
    lease = await node.asleep()
    assert node.client(lease).is_frozen
    await node.pool.snapshot(held(lease))
    assert node.client(lease).is_frozen, "a snapshot wakes nobody"
    assert await node.pool.wake(held(lease))
    assert not node.client(lease).is_frozen


async def test_the_sleeping_are_stored_and_given_up(node: Node) -> None:
    lease = await node.asleep()
    await node.passes(KEEP_S + 1)
    row = node.row(lease)
    assert (row.state, row.lease, node.pool.leased) == (SandboxState.STORED, None, 0)
    assert row.snapshot_id in node.registry.snapshots
    assert node.started(lease).destroyed == 1
    assert not await node.pool.wake(held(lease))


async def test_what_cannot_be_stored_sleeps_on_and_is_tried_less_and_less(node: Node) -> None:
    lease = await node.asleep()
    node.workspaces.fails = SandboxFullError("More than a snapshot may have.")
    for _ in range(600):
        await node.passes(2)
    assert 3 <= node.workspaces.captures <= 10
    assert node.started(lease).is_frozen
    assert (node.row(lease).state, node.meters.open) == (SandboxState.FROZEN, 0)
    node.workspaces.fails = None
    await node.passes(301)
    assert node.row(lease).state is SandboxState.STORED


@pytest.mark.parametrize("failure", [SandboxProtocolError("What is that?"), SandboxLostError("Gone.")])
async def test_what_can_be_read_no_longer_is_given_up(node: Node, failure: SandboxLostError) -> None:
    lease = await node.asleep()
    node.workspaces.fails = failure
    await node.passes(KEEP_S + 1)
    assert (node.row(lease).state, node.row(lease).end_reason) == (SandboxState.ENDED, EndReason.LOST)
    assert node.pool.leased == 0


async def test_what_cannot_be_read_as_a_change_is_read_whole(node: Node) -> None:
    lease = await node.lease()
    await node.pool.snapshot(held(lease))
    node.workspaces.fails_with_parent = SandboxProtocolError("The field `mtime` is no number.")
    stored = await node.pool.store(held(lease))
    assert stored.parent_id is None
    assert node.row(lease).state is SandboxState.STORED


async def test_one_that_will_not_freeze_is_given_up(node: Node) -> None:
    node.backend.can_freeze = False
    lease = await node.lease()
    node.client(lease).fails = SandboxProtocolError("What is that?")
    await node.passes(IDLE_S + 1)
    assert node.row(lease).state is SandboxState.ENDED


async def test_the_limit_of_time_ends_it_asleep_or_not(node: Node) -> None:
    lease = await node.lease()
    await node.pool.snapshot(held(lease))
    await node.passes(WALL_S + 1)
    assert (node.row(lease).state, node.row(lease).end_reason) == (SandboxState.ENDED, EndReason.WALL_LIMIT)
    assert node.pool.leased == 0


async def test_the_limit_of_time_waits_for_the_database(node: Node) -> None:
    lease = await node.lease()
    node.registry.fails = UnavailableError("away")
    await node.passes(WALL_S + 1)
    node.registry.fails = None
    await node.passes(1)
    assert node.row(lease).end_reason is EndReason.WALL_LIMIT


async def test_without_a_freezer_it_is_stored_at_once_and_charged_until_then(node: Node) -> None:
    node.backend.can_freeze = False
    node.workspaces.fails = UnavailableError("The store is away.")
    lease = await node.asleep()
    for _ in range(3):
        await node.passes(1)
        assert (node.row(lease).state, node.meters.open) == (SandboxState.FROZEN, 1)
    node.workspaces.fails = None
    await node.passes(KEEP_S)
    assert (node.row(lease).state, node.meters.open) == (SandboxState.STORED, 0)


async def test_without_a_freezer_it_wakes_only_if_it_can_be_paid(node: Node) -> None:
    node.backend.can_freeze = False
    lease = await node.asleep()
    node.meters.spent = True
    with pytest.raises(BudgetExceededError):
        await node.pool.wake(held(lease))
    assert node.client(lease).is_frozen


async def test_the_limit_of_time_waits_for_no_capture(node: Node) -> None:
    lease = await node.lease()
    node.workspaces.gate.clear()
    snapshot = asyncio.create_task(node.pool.snapshot(held(lease)))
    await node.passes(1)
    assert not node.client(lease).is_closed
    await node.passes(WALL_S + 1)
    assert node.client(lease).is_closed
    node.workspaces.fails = SandboxLostError("This client is closed.")
    node.workspaces.gate.set()
    with pytest.raises(SandboxLostError):
        await snapshot
    await node.passes(1)
    assert node.row(lease).end_reason is EndReason.WALL_LIMIT


@pytest.mark.parametrize("is_asleep", [False, True])
async def test_a_capture_nobody_pays_for_has_an_end(node: Node, is_asleep: bool) -> None:
    lease = await (node.asleep() if is_asleep else node.lease())
    node.workspaces.gate.clear()
    node.meters.spent = True
    snapshot = asyncio.create_task(node.pool.snapshot(held(lease)))
    await settled()
    await node.passes(1)
    await node.passes(60)
    assert not node.client(lease).is_closed, "an honest one has the time it needs"
    await node.passes(3600)
    assert node.client(lease).is_closed
    snapshot.cancel()
    await asyncio.gather(snapshot, return_exceptions=True)


async def test_a_capture_of_one_asleep_is_charged(node: Node) -> None:
    lease = await node.asleep()
    node.workspaces.gate.clear()
    snapshot = asyncio.create_task(node.pool.snapshot(held(lease)))
    await settled()
    assert node.meters.open == 1
    node.workspaces.gate.set()
    await snapshot
    assert node.meters.open == 0


async def test_what_was_ended_elsewhere_is_found_while_it_is_in_use(node: Node) -> None:
    lease = await node.lease()
    await node.passes(61)
    assert node.pool.leased == 1
    await node.registry.end(node.caller.org_id, lease.sandbox_id, EndReason.DELETED)
    for _ in range(3):
        await node.pool.renew([held(lease)])
        await node.passes(30)
    assert node.pool.leased == 0


# --- snapshots ---


async def test_a_snapshot_leaves_it_running(node: Node) -> None:
    lease = await node.lease()
    snapshot = await node.pool.snapshot(held(lease))
    assert node.row(lease).state is SandboxState.RUNNING
    assert node.row(lease).snapshot_id == snapshot.id
    assert not node.client(lease).is_frozen
    assert (await node.pool.snapshot(held(lease))).parent_id == snapshot.id


async def test_a_snapshot_of_one_asleep_leaves_it_asleep(node: Node) -> None:
    lease = await node.asleep()
    await node.pool.snapshot(held(lease))
    assert node.started(lease).is_frozen
    assert not node.client(lease).is_frozen
    assert (node.row(lease).state, node.meters.open) == (SandboxState.FROZEN, 0)


@pytest.mark.parametrize("asks_for", ["snapshot", "store"])
async def test_a_snapshot_that_fails_leaves_it_running(node: Node, asks_for: str) -> None:
    lease = await node.lease()
    node.workspaces.fails = UnavailableError("The store is away.")
    with pytest.raises(UnavailableError):
        await getattr(node.pool, asks_for)(held(lease))
    assert not node.client(lease).is_frozen
    assert node.row(lease).state is SandboxState.RUNNING
    node.workspaces.fails = None
    node.registry.fails = UnavailableError("The database is away.")
    with pytest.raises(UnavailableError):
        await getattr(node.pool, asks_for)(held(lease))
    assert not node.client(lease).is_frozen
    node.registry.fails = None
    assert await node.pool.wake(held(lease))


async def test_whoever_leaves_during_a_snapshot_leaves_it_running(node: Node) -> None:
    lease = await node.lease()
    node.workspaces.gate.clear()
    snapshot = asyncio.create_task(node.pool.snapshot(held(lease)))
    await settled()
    assert node.client(lease).is_frozen
    snapshot.cancel()
    await asyncio.gather(snapshot, return_exceptions=True)
    assert not node.client(lease).is_frozen
    assert await node.pool.wake(held(lease))


async def test_a_long_snapshot_keeps_nobody_elses_renewal(node: Node) -> None:
    lease, other = await node.lease(), await node.lease()
    node.workspaces.gate.clear()
    snapshot = asyncio.create_task(node.pool.snapshot(held(lease)))
    await settled()
    async with asyncio.timeout(1):
        assert await node.pool.renew([held(lease), held(other)]) == []
    node.workspaces.gate.set()
    await snapshot


async def test_what_was_fenced_off_is_destroyed_when_it_is_stored(node: Node) -> None:
    lease = await node.lease()
    row = node.row(lease)
    node.registry.rows[row.id] = replace(row, fence=2)
    with pytest.raises(FencedError):
        await node.pool.store(held(lease))
    assert node.pool.leased == 0
    assert node.registry.rows[row.id].snapshot_id is None


async def test_what_was_ended_elsewhere_is_found_when_it_falls_asleep(node: Node) -> None:
    lease = await node.lease()
    await node.registry.end(node.caller.org_id, lease.sandbox_id, EndReason.DELETED)
    await node.passes(IDLE_S + 1)
    assert node.pool.leased == 0


async def test_only_the_holder_may_ask(node: Node) -> None:
    lease = await node.lease()
    for stranger in (Held(new_lease_id(), lease.fence), Held(lease.id, lease.fence - 1)):
        with pytest.raises(FencedError):
            await node.pool.snapshot(stranger)
        with pytest.raises(FencedError):
            await node.pool.store(stranger)
        assert not await node.pool.wake(stranger)
        assert await node.pool.renew([stranger]) == [stranger.lease_id]
    await node.pool.release(lease.sandbox_id, lease.fence - 1)
    assert await node.pool.wake(held(lease))


# --- budgets ---


async def test_a_spent_budget_puts_it_away_and_the_next_use_says_so(node: Node) -> None:
    lease = await node.lease()
    node.meters.spent = True
    await node.passes(1)
    row = node.row(lease)
    assert (row.state, node.meters.open) == (SandboxState.STORED, 0)
    begun = await node.registry.begin(row.org_id, row.id)
    with pytest.raises(BudgetExceededError):
        await node.lease(begun)


async def test_nothing_runs_unpaid_because_it_cannot_be_stored(node: Node) -> None:
    lease = await node.lease()
    node.meters.spent = True
    node.workspaces.fails = UnavailableError("The store is away.")
    await node.passes(1)
    assert node.started(lease).is_frozen
    assert (node.row(lease).state, node.meters.open) == (SandboxState.FROZEN, 0)
    with pytest.raises(BudgetExceededError):
        await node.pool.wake(held(lease))
    assert node.started(lease).is_frozen


async def test_one_that_cannot_pay_keeps_no_other_from_waking(node: Node) -> None:
    poor = await node.asleep()
    other = await node.lease()
    node.meters.spent = True
    assert await node.pool.renew([held(poor), held(other)]) == []
    await settled()
    assert node.started(poor).is_frozen
