"""Pools: what a lease comes with, how long it may take, what is told of one that fails, and how it ends."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from actors.sandbox.keeping import kept_starting
from actors.sandbox.ports import Order
from serve_app.core.domain.sandboxes import EndReason
from serve_app.core.errors import (
    AetherError,
    FencedError,
    MisconfiguredError,
    SandboxLostError,
    UnavailableError,
    UnenforceableError,
)
from tests.doubles.sandbox_nodes import Node, running_node
from tests.doubles.sandboxes import settled


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running_node() as node:
        yield node


async def test_a_lease_has_a_token_of_its_own(node: Node) -> None:
    stocked = node.backend.tokens[0]
    lease = await node.lease()
    assert node.client(lease).token == lease.door.token != stocked
    assert node.pool.admits(lease.sandbox_id, stocked) is None


async def test_one_that_is_not_claimed_is_no_lease(node: Node) -> None:
    node.claims_fail = SandboxLostError("Gone.")
    with pytest.raises(SandboxLostError):
        await node.lease()
    assert (node.meters.open, node.pool.leased) == (0, 0)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (UnavailableError("/run/secret/place is full", node="n"), UnavailableError),
        (MisconfiguredError("engine: /run/secret/place"), UnavailableError),
        (UnenforceableError("/run/secret/place has no quota"), UnenforceableError),
    ],
)
async def test_what_a_backend_says_of_its_machine_is_not_told(
    node: Node, failure: AetherError, told: type[AetherError]
) -> None:
    await node.lease()
    node.backend.failures = [failure]
    with pytest.raises(told) as caught:
        await node.lease()
    assert "secret" not in caught.value.message
    assert caught.value.details == {}


async def test_a_start_that_takes_long_is_nobody_elses(node: Node) -> None:
    row = await node.new_row()
    async with kept_starting(node.registry, row, every_s=0.01):
        node.registry.fails = RuntimeError("deadlock")
        await asyncio.sleep(0.03)
        node.registry.fails = None
        node.clock.passed_s = 31
        await asyncio.sleep(0.03)
        assert await node.registry.begin(row.org_id, row.id) is None
    node.clock.passed_s += 31
    assert await node.registry.begin(row.org_id, row.id)


async def test_a_large_workspace_has_more_time_to_come_back(node: Node) -> None:
    row = await node.stored()
    assert row.snapshot_id is not None
    large = replace(node.registry.snapshots[row.snapshot_id], size_bytes=2 * 1024**3, files=100_000)
    assert Order(row, None).allowed_s == 60
    assert Order(row, large).allowed_s == 60 + 512 + 200


async def test_whoever_stops_waiting_for_an_end_does_not_hide_it(node: Node) -> None:
    lease = await node.lease()
    node.backend.end_gate.clear()
    ending = asyncio.create_task(node.pool.release(lease.sandbox_id, lease.fence))
    await settled()
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    assert node.pool.leased == 1
    closing = asyncio.create_task(node.pool.close())
    await settled()
    assert not closing.done()
    node.backend.end_gate.set()
    await closing
    assert node.pool.leased == 0


async def test_a_way_out_that_does_not_open_leaves_nothing(node: Node) -> None:
    node.outlets.fails = RuntimeError("no proxy")
    with pytest.raises(RuntimeError):
        await node.lease()
    assert (node.meters.open, node.pool.leased) == (0, 0)


async def test_a_row_that_was_ended_meanwhile_gets_no_sandbox(node: Node) -> None:
    row = await node.new_row()
    await node.registry.end(row.org_id, row.id, EndReason.DELETED)
    with pytest.raises(FencedError):
        await node.lease(row)
    assert node.pool.leased == 0
