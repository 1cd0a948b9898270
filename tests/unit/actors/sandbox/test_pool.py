"""Pools: leases, fences, death, a life's begin and end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.sandbox.ports import Order
from actors.sandbox.tenancy import Tenancy
from actors.sandbox.watchdog import watch_memory
from serve_app.core.domain.sandboxes import EndReason, Lease, SandboxState, Service
from serve_app.core.errors import (
    AtCapacityError,
    BudgetExceededError,
    CorruptedError,
    FencedError,
    SandboxFullError,
    SandboxLostError,
    UnavailableError,
)
from tests.doubles.sandbox_nodes import IDLE_S, MOST, Node, held, running_node
from tests.doubles.sandbox_rows import ManualClock, MemoryRegistry
from tests.doubles.sandboxes import settled


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running_node() as node:
        yield node


# --- leases ---


async def test_a_lease_is_a_warm_sandbox_and_its_row_runs(node: Node) -> None:
    lease = await node.lease()
    row = node.row(lease)
    assert (row.state, row.lease, row.node_id) == (SandboxState.RUNNING, lease, "node-1")
    assert lease.door.path == str(node.backend.all[0].door)
    assert node.meters.open == 1
    async with asyncio.timeout(5):
        while node.pool.capacity().rooms["small"].warm != 1:
            await asyncio.sleep(0.01)
    assert node.pool.admits(lease.sandbox_id, lease.door.token) == Path(lease.door.path)
    assert node.pool.admits(lease.sandbox_id, "0" * 32) is None
    assert node.pool.admits("sbx_nobody", lease.door.token) is None


async def test_services_start_and_one_that_does_not_is_no_end(node: Node) -> None:
    lease = await node.lease(await node.new_row(Service(name="web", argv=("serve", "8000"))))
    assert node.client(lease).started == [("serve", "8000")]


async def test_capacity_is_never_exceeded(node: Node) -> None:
    rows = [await node.new_row() for _ in range(3 * MOST)]
    outcomes = await asyncio.gather(*(node.pool.lease(Order(row, None)) for row in rows), return_exceptions=True)
    leases = [one for one in outcomes if isinstance(one, Lease)]
    assert len(leases) == MOST
    assert {type(one) for one in outcomes} == {Lease, AtCapacityError}
    assert node.backend.most_alive <= MOST
    assert node.pool.capacity().rooms["small"].free == 0
    await node.pool.release(leases[0].sandbox_id, 1)
    await settled()
    assert node.pool.capacity().rooms["small"].free == 1
    await node.lease()
    assert node.backend.most_alive <= MOST


async def test_one_that_is_under_way_is_no_reason_to_refuse() -> None:
    node = Node(warm=MOST)
    node.backend.gate.clear()
    await node.pool.start()
    await settled()
    leasing = asyncio.create_task(node.pool.lease(Order(await node.new_row(), None)))
    await settled()
    node.backend.gate.set()
    assert await leasing
    assert node.backend.most_alive <= MOST
    await node.pool.close()


async def test_one_being_destroyed_still_has_its_place(node: Node) -> None:
    leases = [await node.lease() for _ in range(MOST)]
    ending = asyncio.create_task(node.pool.release(leases[0].sandbox_id, 1))
    await asyncio.sleep(0)
    assert node.pool.capacity().rooms["small"].free == 0
    await ending


async def test_without_memory_only_what_waits_ready_is_leased(node: Node) -> None:
    node.memory = 0
    await node.lease()
    with pytest.raises(AtCapacityError):
        await node.lease()
    assert node.pool.capacity().rooms["small"].free == 0


async def test_who_cannot_pay_gets_none_and_takes_none(node: Node) -> None:
    node.meters.spent = True
    with pytest.raises(BudgetExceededError):
        await node.lease()
    assert len(node.backend.alive) == 1


async def test_a_start_that_fails_leaves_no_meter_running(node: Node) -> None:
    await node.lease()
    node.backend.gate.clear()
    node.backend.failures = [UnavailableError("broken")] * 2
    first = asyncio.create_task(node.pool.lease(Order(await node.new_row(), None)))
    second = asyncio.create_task(node.pool.lease(Order(await node.new_row(), None)))
    await settled()
    node.backend.gate.set()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert any(isinstance(one, UnavailableError) for one in outcomes)
    assert node.meters.open == 1 + sum(isinstance(one, Lease) for one in outcomes)


async def test_whoever_leaves_while_waiting_leaves_nothing(node: Node) -> None:
    await node.lease()
    node.backend.gate.clear()
    while node.pool.capacity().rooms["small"].warm:
        await node.lease()
    waiter = asyncio.create_task(node.pool.lease(Order(await node.new_row(), None)))
    await settled()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    node.backend.gate.set()
    await settled()
    assert node.meters.open == node.pool.leased


async def test_files_that_do_not_come_back_are_no_lease(node: Node) -> None:
    row = await node.stored()
    begun = await node.registry.begin(row.org_id, row.id)
    assert begun is not None
    assert row.snapshot_id is not None
    node.workspaces.fails = CorruptedError("Stored bytes do not match.")
    with pytest.raises(CorruptedError):
        await node.lease(begun, node.registry.snapshots[row.snapshot_id])
    assert (node.meters.open, node.pool.leased) == (0, 0)


async def test_an_order_that_comes_late_does_not_touch_the_newer_sandbox(node: Node) -> None:
    row = await node.new_row()
    node.clock.passed_s = 31
    newer = await node.registry.begin(row.org_id, row.id)
    lease = await node.lease(newer)
    with pytest.raises(FencedError):
        await node.lease(row)
    assert await node.pool.wake(held(lease))
    assert node.row(lease).state is SandboxState.RUNNING


async def test_of_two_orders_under_way_the_newer_fence_stays(node: Node) -> None:
    row = await node.new_row()
    node.backend.gate.clear()
    while node.pool.capacity().rooms["small"].warm:
        await node.lease()
    older = asyncio.create_task(node.pool.lease(Order(row, None)))
    await settled()
    node.clock.passed_s = 31
    begun = await node.registry.begin(row.org_id, row.id)
    assert begun is not None
    newer = asyncio.create_task(node.pool.lease(Order(begun, None)))
    await settled()
    node.backend.gate.set()
    outcomes = await asyncio.gather(older, newer, return_exceptions=True)
    assert isinstance(outcomes[0], FencedError)
    assert isinstance(outcomes[1], Lease)
    assert await node.pool.wake(held(outcomes[1]))


async def test_an_older_lease_makes_way_for_a_newer_one(node: Node) -> None:
    older = await node.lease()
    row = node.row(older)
    node.registry.rows[row.id] = replace(row, state=SandboxState.STARTING, fence=2, lease=None)
    newer = await node.lease(node.registry.rows[row.id])
    assert node.started(older).destroyed == 1
    assert await node.pool.renew([held(older), held(newer)]) == [older.id]


async def test_one_declared_lost_while_it_moved_in_is_no_lease(node: Node) -> None:
    """The pool is declared dead, and finds out, in the moment in which the row begins to run."""

    async def declared_dead() -> None:
        node.registry.before_running = None
        node.registry.pools.clear()
        await node.pool.beat()

    node.registry.before_running = declared_dead
    with pytest.raises((SandboxLostError, FencedError)):
        await node.lease()
    assert (node.meters.open, node.pool.leased) == (0, 0)


# --- death ---


async def test_one_that_dies_ends_or_goes_back_to_its_snapshot(node: Node) -> None:
    first, second = await node.lease(), await node.lease()
    await node.pool.snapshot(held(second))
    for lease in (first, second):
        node.started(lease).dead.set()
    await settled()
    assert (node.row(first).state, node.row(first).end_reason) == (SandboxState.ENDED, EndReason.LOST)
    assert (node.row(second).state, node.row(second).lease) == (SandboxState.STORED, None)
    assert (node.pool.leased, node.meters.open) == (0, 0)
    assert await node.pool.renew([held(first)]) == [first.id]


async def test_one_that_dies_while_the_database_is_away_is_no_failure(node: Node) -> None:
    lease = await node.lease()
    node.registry.fails = UnavailableError("away")
    node.started(lease).dead.set()
    await settled()
    node.registry.fails = None
    assert node.pool.leased == 0
    assert await node.pool.renew([held(lease)]) == [lease.id]


async def test_one_that_dies_while_it_is_stored_goes_back_to_what_there_was(node: Node) -> None:
    lease = await node.lease()
    kept = await node.pool.snapshot(held(lease))
    node.workspaces.gate.clear()
    storing = asyncio.create_task(node.pool.store(held(lease)))
    await settled()
    node.started(lease).dead.set()
    node.workspaces.fails = SandboxLostError("Gone.")
    node.workspaces.gate.set()
    with pytest.raises(SandboxLostError):
        await storing
    await settled()
    assert (node.row(lease).state, node.row(lease).snapshot_id) == (SandboxState.STORED, kept.id)
    assert node.pool.leased == 0


async def test_a_pool_declared_dead_gives_everything_up_and_begins_anew(node: Node) -> None:
    first = await node.lease()
    await node.pool.beat()
    was = node.pool.id
    node.registry.pools.clear()
    # Leased after others took the pool for dead: no burial will find its row.
    second = await node.lease()
    await node.pool.beat()
    await settled()
    assert node.pool.id != was
    assert node.pool.id in node.registry.pools
    for lease in (first, second):
        assert node.row(lease).state is SandboxState.ENDED
    assert node.pool.leased == 0
    assert await node.lease()


async def test_silent_pools_are_buried_by_the_others() -> None:
    clock = ManualClock()
    registry = MemoryRegistry(clock)
    silent, other = Node("node-1", registry, clock), Node("node-2", registry, clock)
    for node in (silent, other):
        await node.pool.start()
    await settled()
    lease = await silent.lease()
    for _ in range(10):
        clock.passed_s += 2
        await other.pool.beat()
    assert silent.row(lease).state is SandboxState.ENDED
    await silent.pool.close()
    await other.pool.close()


async def test_a_database_that_was_away_is_nobodys_death() -> None:
    clock = ManualClock()
    registry = MemoryRegistry(clock)
    first, second = Node("node-1", registry, clock), Node("node-2", registry, clock)
    for node in (first, second):
        await node.pool.start()
    await settled()
    lease = await first.lease()
    for is_away in (False, True, False):
        registry.fails = UnavailableError("away") if is_away else None
        for _ in range(12):
            clock.passed_s += 2
            # The second's heart always beats first, right when the database is back.
            await second.pool.beat()
            await first.pool.beat()
    assert first.row(lease).state is SandboxState.RUNNING
    await first.pool.close()
    await second.pool.close()


async def test_a_heart_that_stumbles_is_no_end(node: Node) -> None:
    lease = await node.lease()
    node.registry.fails = RuntimeError("deadlock detected")
    await node.pool.beat()
    node.registry.fails = None
    await node.pool.beat()
    assert await node.pool.wake(held(lease))


async def test_one_that_cannot_be_ended_leaves_the_others_watched(node: Node) -> None:
    leases = [await node.lease() for _ in range(3)]
    for lease in leases[1:]:
        node.started(lease).uses_bytes = 1 << 50
    ended = []

    async def end(tenancy: Tenancy) -> None:
        ended.append(tenancy.row.id)
        raise RuntimeError("its folder is busy")

    watching = asyncio.create_task(watch_memory(node.pool._tenancies.all, end))
    async with asyncio.timeout(5):
        while len(ended) < 4:
            await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert set(ended) == {lease.sandbox_id for lease in leases[1:]}


# --- its life ---


async def test_closing_stores_every_workspace(node: Node) -> None:
    awake, asleep = await node.lease(), await node.lease()
    await node.passes(IDLE_S - 1)
    await node.pool.renew([held(awake)])
    await node.passes(2)
    assert node.row(asleep).state is SandboxState.FROZEN
    await node.pool.close()
    assert {node.row(lease).state for lease in (awake, asleep)} == {SandboxState.STORED}
    assert node.used == [True, False]
    with pytest.raises(AtCapacityError):
        await node.lease()


async def test_closing_is_not_kept_by_what_cannot_be_stored(node: Node) -> None:
    whole, broken = await node.lease(), await node.lease()
    await node.pool.snapshot(held(whole))
    node.workspaces.fails = SandboxFullError("More than a snapshot may have.")
    await node.pool.close()
    assert node.row(whole).state is SandboxState.STORED
    assert node.row(broken).state is SandboxState.ENDED


async def test_one_that_moves_in_while_the_pool_closes_is_stored_whole(node: Node) -> None:
    row = await node.stored()
    begun = await node.registry.begin(row.org_id, row.id)
    assert begun is not None
    assert row.snapshot_id is not None
    node.workspaces.gate.clear()
    leasing = asyncio.create_task(node.pool.lease(Order(begun, node.registry.snapshots[row.snapshot_id])))
    await settled()
    closing = asyncio.create_task(node.pool.close())
    await settled()
    assert node.workspaces.captures == 1, "half a workspace is not stored"
    node.workspaces.gate.set()
    await asyncio.gather(leasing, closing)
    found = node.registry.rows[row.id]
    assert found.state is SandboxState.STORED
    assert found.snapshot_id is not None
    assert node.registry.snapshots[found.snapshot_id].parent_id == row.snapshot_id


async def test_a_backend_that_cannot_work_offers_nothing_until_it_can() -> None:
    node = Node()
    node.backend.sweep_fails = UnavailableError("There is no engine.")
    await node.pool.start()
    assert node.pool.capacity().rooms == {}
    with pytest.raises(AtCapacityError):
        await node.lease()
    node.backend.sweep_fails = KeyError("ServerVersion")
    await node.pool.look()
    assert node.pool.capacity().rooms == {}
    node.backend.sweep_fails = None
    node.backend.is_usable = False
    await node.pool.look()
    assert node.pool.capacity().rooms == {}
    node.backend.is_usable = True
    await node.pool.look()
    assert await node.lease()
    await node.pool.close()
    node.backend.check_left()


async def test_the_pool_runs_by_itself() -> None:
    node = Node()
    await node.pool.start()
    running = asyncio.create_task(node.pool.run())
    lease = await node.lease()
    node.clock.passed_s = IDLE_S + 1
    async with asyncio.timeout(5):
        while node.row(lease).state is not SandboxState.FROZEN:
            await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await node.pool.close()
    node.backend.check_left()
