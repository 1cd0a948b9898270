"""The live events port, against a real Valkey."""

import asyncio
from collections.abc import Sequence

import pytest

from serve_app.core.errors import MisconfiguredError
from serve_app.core.stores.live.base import Disturbed, LiveEvents, LiveFrame, Subscription
from serve_app.core.stores.live.redis import RedisLiveEvents
from tests.conftest import Server


def frame(number: int | None, text: str = "x") -> LiveFrame:
    return LiveFrame(number, "message.delta", text.encode())


async def gather(subscription: Subscription, count: int, timeout_s: float = 5.0) -> list[LiveFrame | Disturbed]:
    found: list[LiveFrame | Disturbed] = []
    async with asyncio.timeout(timeout_s):
        while len(found) < count:
            found += await subscription.next(1.0)
    return found


async def test_a_watcher_sees_what_is_published_after_it_came_in_order(live: LiveEvents) -> None:
    await live.publish("c1", [frame(1, "before")])
    async with live.subscribe("c1") as watcher:
        await live.publish("c1", [frame(2), frame(None, "delta"), frame(3)])
        assert await gather(watcher, 3) == [frame(2), frame(None, "delta"), frame(3)]
        assert await watcher.next(0.01) == []


async def test_channels_do_not_mix_and_watchers_share(live: LiveEvents) -> None:
    async with live.subscribe("c2") as one, live.subscribe("c2") as two, live.subscribe("c3") as other:
        await live.publish("c2", [frame(1)])
        assert await gather(one, 1) == await gather(two, 1) == [frame(1)]
        assert await other.next(0.05) == []


async def test_a_watcher_that_comes_while_others_wait_misses_nothing(live: LiveEvents) -> None:
    async with live.subscribe("c4") as first:
        await asyncio.sleep(0.05)  # the reader now blocks on c4 alone
        async with live.subscribe("c5") as second:
            await live.publish("c5", [frame(1)])
            assert await gather(second, 1, timeout_s=1.0) == [frame(1)]
        assert await first.next(0.01) == []


async def test_a_slow_watcher_is_told_that_it_missed_something_and_slows_nobody(live: LiveEvents) -> None:
    async with live.subscribe("c6") as slow, live.subscribe("c6") as quick:
        seen: list[LiveFrame | Disturbed] = []
        for start in range(0, 5000, 500):
            await live.publish("c6", [frame(n) for n in range(start, start + 500)])
            seen += await gather(quick, 500)
        assert [item.seq for item in seen if isinstance(item, LiveFrame)] == list(range(5000))
        held: Sequence[LiveFrame | Disturbed] = await slow.next(1.0)
        assert isinstance(held[0], Disturbed)
        assert len(held) < 2500


async def test_many_watchers_use_one_blocking_connection(live: LiveEvents, valkey: Server) -> None:
    other = RedisLiveEvents(valkey.url)
    async with asyncio.TaskGroup() as group, live.subscribe("c7"):
        for number in range(100):
            group.create_task(_watch_once(live, f"c8-{number}"))
    found = await other._redis.client_list()
    assert len([client for client in found if client["cmd"] == "xread"]) <= 1
    await other.close()


async def _watch_once(live: LiveEvents, channel: str) -> None:
    async with live.subscribe(channel) as watcher:
        await live.publish(channel, [frame(1)])
        assert await gather(watcher, 1) == [frame(1)]


async def test_after_kill_9_of_the_broker_watchers_are_disturbed_and_then_go_on(
    live: LiveEvents, valkey: Server
) -> None:
    async with live.subscribe("c9") as watcher:
        await live.publish("c9", [frame(1)])
        assert await gather(watcher, 1) == [frame(1)]
        await valkey.kill_and_restart(away_s=0.3)
        async with asyncio.timeout(5):
            while Disturbed() not in await watcher.next(1.0):
                pass
            await asyncio.sleep(0.5)
            await live.publish("c9", [frame(2)])
            while frame(2) not in await watcher.next(1.0):
                pass


async def test_a_stream_keeps_its_entries_for_readers_that_come_later(live: LiveEvents) -> None:
    for number in range(3):
        await live.append("stream-1", {"id": b"%d" % number})
    assert [entry["id"] async for entry in live.entries("stream-1")] == [b"0", b"1", b"2"]


async def test_a_broker_that_refuses_the_login_is_told_as_a_wrong_setting(live: LiveEvents, valkey: Server) -> None:
    stranger = RedisLiveEvents(valkey.url + "?username=nobody&password=wrong")
    with pytest.raises(MisconfiguredError, match="AETHER_REDIS_URL"):
        await stranger.ping()
    await stranger.close()


async def test_a_cancelled_publisher_is_cancelled_at_whatever_point_it_is(live: LiveEvents) -> None:
    async def append_forever() -> None:
        while True:
            await live.append("c9", {"a": b"1"})

    for attempt in range(50):
        task = asyncio.create_task(append_forever())
        await asyncio.sleep(attempt / 5_000)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        assert task.cancelled()
