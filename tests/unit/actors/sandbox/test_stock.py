"""Stocks: taken and refilled, waited for, failing, dying, given up, closed."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from actors.sandbox.stock import Stock
from configs.sandboxes import Profile
from serve_app.core.errors import UnavailableError, UnenforceableError
from tests.doubles.sandbox_rows import ManualClock
from tests.doubles.sandboxes import ScriptedBackend, settled


class Shelf:
    """A stock with everything it needs, in a test's hands. `room` is what is left for others than those there are."""

    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self.clock = ManualClock()
        self.most = 100
        self.taken = 0
        self.stock: Stock

    def make(self, *, warm: int = 2, most_starting: int = 100) -> Stock:
        profile = Profile(id="small", warm=warm, most=100)
        starting = asyncio.Semaphore(most_starting)
        self.stock = Stock(profile, self.backend, starting, self.clock, self._room, refill_pause_s=0)
        return self.stock

    def _room(self) -> int:
        return self.most - self.taken - self.stock.ready - self.stock.under_way

    async def filled(self, **settings: int) -> Stock:
        stock = self.make(**settings)
        stock.fill()
        await settled()
        return stock


@pytest.fixture
async def shelf() -> AsyncIterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.backend.gate.set()
    await shelf.stock.close()
    for started in shelf.backend.all:
        if not started.destroyed:
            await started.destroy()
    shelf.backend.check_left()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_what_was_taken_is_replaced(shelf: Shelf) -> None:
    stock = await shelf.filled()
    assert stock.ready == 2
    ready = await stock.take()
    assert ready.started in shelf.backend.alive
    assert len(ready.token) == 32
    await settled()
    assert stock.ready == 2
    assert (await stock.take()).token != ready.token


async def test_who_finds_none_gets_the_next_that_is_ready(shelf: Shelf) -> None:
    shelf.backend.gate.clear()
    stock = await shelf.filled(warm=1)
    first, second = asyncio.create_task(stock.take()), asyncio.create_task(stock.take())
    await settled()
    # One was under way already: it serves the first, and only one more is started.
    assert (shelf.backend.asked, stock.under_way) == (2, 0)
    shelf.backend.gate.set()
    tokens = {(await first).token, (await second).token}
    assert len(tokens) == 2


async def test_nobody_waits_for_one_that_is_given_away(shelf: Shelf) -> None:
    """Whoever comes in the moment in which a start has ended, and its task has not, starts another."""
    stock = shelf.make(warm=0)
    shelf.backend.gate.clear()
    first = asyncio.create_task(stock.take())
    await settled()

    async def come_second() -> None:
        await first
        await stock.take()

    second = asyncio.create_task(come_second())
    shelf.backend.gate.set()
    await asyncio.wait_for(second, 1)


async def test_what_was_started_for_a_waiter_who_left_is_kept(shelf: Shelf) -> None:
    stock = shelf.make(warm=0)
    shelf.backend.gate.clear()
    waiter = asyncio.create_task(stock.take())
    await settled()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    shelf.backend.gate.set()
    await settled()
    assert stock.ready == 1
    assert await stock.take()


@pytest.mark.parametrize("steps", range(8))
async def test_who_leaves_in_the_moment_of_getting_one_loses_none(shelf: Shelf, steps: int) -> None:
    stock = shelf.make(warm=0)
    shelf.backend.gate.clear()
    waiter = asyncio.create_task(stock.take())
    await settled()
    shelf.backend.gate.set()
    await settled(steps)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await settled()
    assert len(shelf.backend.alive) == 1
    assert stock.ready == (1 if waiter.cancelled() else 0)


async def test_a_start_that_fails_is_told_to_one_who_waits(shelf: Shelf) -> None:
    stock = shelf.make(warm=0)
    shelf.backend.gate.clear()
    waiters = [asyncio.create_task(stock.take()) for _ in range(3)]
    await settled()
    shelf.backend.failures = [UnenforceableError("No control groups.", limits=["memory"])]
    shelf.backend.gate.set()
    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(one).__name__ for one in outcomes].count("UnenforceableError") == 1
    assert len(shelf.backend.alive) == 2


async def test_a_backend_that_breaks_is_no_end_of_waiting(shelf: Shelf) -> None:
    stock = shelf.make(warm=0)
    shelf.backend.failures = [RuntimeError("what nobody thought of")]
    with pytest.raises(UnavailableError, match="did not start"):
        await stock.take()
    assert await stock.take()


async def test_what_fails_is_tried_again_after_a_pause(shelf: Shelf) -> None:
    shelf.backend.failures = [UnavailableError("broken")] * 2
    stock = await shelf.filled()
    assert (stock.ready, shelf.backend.asked) == (0, 2)
    stock.fill()
    await settled()
    assert shelf.backend.asked == 2, "nothing is started in the pause"
    # Somebody who waits does not wait for the end of the pause.
    assert await asyncio.wait_for(stock.take(), 0.3)
    await until(lambda: stock.ready == 2)


async def test_a_warm_one_that_dies_is_cleared_away_and_replaced(shelf: Shelf) -> None:
    stock = await shelf.filled()
    died = shelf.backend.all[0]
    died.dead.set()
    await settled()
    assert (stock.ready, died.destroyed) == (1, 1)
    await until(lambda: stock.ready == 2)


async def test_one_that_dies_at_once_keeps_nobody_busy(shelf: Shelf) -> None:
    stock = await shelf.filled(warm=1)
    for _ in range(3):
        shelf.backend.all[-1].dead.set()
        await settled()
    assert shelf.backend.asked == 1, "the next is started after a pause"
    await until(lambda: stock.ready == 1)


async def test_demand_makes_more_wait_ready_for_a_while(shelf: Shelf) -> None:
    stock = await shelf.filled(warm=2)
    for _ in range(6):
        await stock.take()
        shelf.taken += 1
    await settled()
    assert stock.ready == 6
    shelf.clock.passed_s = 11
    stock.trim()
    assert stock.ready == 2
    await settled()
    assert sum(started.destroyed for started in shelf.backend.all) == 4


async def test_starts_are_bounded(shelf: Shelf) -> None:
    shelf.backend.gate.clear()
    stock = await shelf.filled(warm=5, most_starting=2)
    assert shelf.backend.asked == 2
    shelf.backend.gate.set()
    await settled()
    assert stock.ready == 5


async def test_no_more_wait_ready_than_there_is_room_for(shelf: Shelf) -> None:
    shelf.most = 3
    stock = await shelf.filled(warm=2)
    for _ in range(2):
        shelf.taken += 1
        await stock.take()
        await settled()
    assert stock.ready == 1
    shelf.taken = 0
    stock.fill()
    await settled()
    assert stock.ready == 2


async def test_what_is_under_way_counts_once(shelf: Shelf) -> None:
    shelf.backend.gate.clear()
    shelf.most = 2
    stock = await shelf.filled(warm=4)
    assert shelf.backend.asked == 2
    shelf.most = 4
    stock.fill()
    await settled()
    assert shelf.backend.asked == 4


async def test_closing_leaves_nothing_and_tells_those_who_wait(shelf: Shelf) -> None:
    stock = await shelf.filled()
    taken = [await stock.take() for _ in range(2)]
    shelf.backend.gate.clear()
    waiters = [asyncio.create_task(stock.take()) for _ in range(stock.ready + 1)]
    await settled()
    await stock.close()
    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(outcomes[-1], UnavailableError)
    with pytest.raises(UnavailableError, match="closing"):
        await stock.take()
    assert shelf.backend.alive == {one.started for one in [*taken, *outcomes] if not isinstance(one, BaseException)}
