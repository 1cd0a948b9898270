"""Pieces from a thread arrive in order, the first at once, the others in batches."""

import asyncio
import threading
import time

import pytest

from serve_app.inference.relay import Relay


async def test_the_first_piece_does_not_wait_and_the_rest_are_gathered() -> None:
    relay = Relay(asyncio.get_running_loop(), interval_s=0.05)
    batches = relay.batches()
    started = time.perf_counter()
    relay.put(b"0")
    assert await anext(batches) == b"0"
    assert time.perf_counter() - started < 0.04

    def write() -> None:
        for number in range(1, 101):
            relay.put(b"," + str(number).encode())
            time.sleep(0.001)
        relay.end(None)

    writer = threading.Thread(target=write)
    writer.start()
    rest = [batch async for batch in batches]
    writer.join()
    assert b"".join(rest) == b"".join(b"," + str(number).encode() for number in range(1, 101))
    assert len(rest) < 25


async def test_the_end_is_not_held_back() -> None:
    relay = Relay(asyncio.get_running_loop(), interval_s=30)
    batches = relay.batches()
    relay.put(b"a")
    assert await anext(batches) == b"a"
    relay.put(b"b")
    relay.end(None)
    assert await asyncio.wait_for(anext(batches), 5) == b"b"
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


async def test_an_error_comes_after_all_that_was_written() -> None:
    relay = Relay(asyncio.get_running_loop())
    relay.put(b"a")
    relay.end(ValueError("late"))
    batches = relay.batches()
    assert await anext(batches) == b"a"
    with pytest.raises(ValueError, match="late"):
        await anext(batches)


async def test_a_writer_outlives_its_loop() -> None:
    loop = asyncio.new_event_loop()
    relay = Relay(loop)
    loop.close()
    relay.put(b"a")
    relay.end(None)
