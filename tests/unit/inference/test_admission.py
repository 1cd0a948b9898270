"""Who runs, who waits, who is refused, and that nothing leaks."""

import asyncio

import pytest

from serve_app.core.errors import OverloadedError
from serve_app.inference.admission import Admission


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_slots_are_given_in_order() -> None:
    admission = Admission(slots=1, pool_tokens=100, max_queued=5)
    order: list[str] = []

    async def run(name: str) -> None:
        await admission.enter(10)
        order.append(name)

    await admission.enter(10)
    waiting = [asyncio.create_task(run(name)) for name in "abc"]
    await _settle()
    assert order == []
    for _ in waiting:
        admission.leave(10)
        await _settle()
    assert order == ["a", "b", "c"]


async def test_the_pool_is_never_overdrawn_and_big_requests_are_not_starved() -> None:
    admission = Admission(slots=4, pool_tokens=100, max_queued=5)
    await admission.enter(60)
    big = asyncio.create_task(admission.enter(60))
    await _settle()
    small = asyncio.create_task(admission.enter(10))
    await _settle()
    assert not big.done()
    assert not small.done(), "a later small request must not overtake for ever"
    assert admission.resize(60, 30)
    await _settle()
    assert big.done()
    assert small.done()


async def test_too_many_waiting() -> None:
    admission = Admission(slots=1, pool_tokens=100, max_queued=1)
    await admission.enter(1)
    waiting = asyncio.create_task(admission.enter(1))
    await _settle()
    with pytest.raises(OverloadedError):
        await admission.enter(1)
    admission.leave(1)
    await waiting


async def test_a_waiting_request_that_leaves_is_dropped() -> None:
    admission = Admission(slots=1, pool_tokens=100, max_queued=2)
    await admission.enter(1)
    first = asyncio.create_task(admission.enter(100))
    second = asyncio.create_task(admission.enter(1))
    await _settle()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert admission.queued == 1
    admission.leave(1)
    await second


async def test_a_request_cancelled_just_as_its_turn_comes_gives_the_turn_back() -> None:
    admission = Admission(slots=1, pool_tokens=100, max_queued=2)
    await admission.enter(1)
    late = asyncio.create_task(admission.enter(1))
    await _settle()
    admission.leave(1)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    await asyncio.wait_for(admission.enter(100), 1)


async def test_growing_takes_only_what_is_free() -> None:
    admission = Admission(slots=2, pool_tokens=100, max_queued=2)
    await admission.enter(40)
    await admission.enter(40)
    assert not admission.resize(40, 61)
    assert admission.resize(40, 60)
    admission.leave(60)
    await asyncio.wait_for(admission.enter(60), 1)
