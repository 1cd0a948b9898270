"""Live events on Redis streams. One reader task and one blocking connection serve every watcher of a process."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from serve_app.core.errors import MisconfiguredError, UnavailableError
from serve_app.core.stores.live.base import Disturbed, LiveFrame
from serve_app.core.stores.redis import answered, connect
from serve_app.core.telemetry import get_logger

_KEEP_FRAMES = 2_000
_KEEP_S = 3_600
_STREAM_FRAMES = 100_000
_QUEUE_FRAMES = 2_000
_BLOCK_MS = 5_000
_RETRY_S = 0.2
_PUBLISH_S = 1.0
# To a watcher and to a publisher it is the same: live events are a courtesy, and the log has the truth.
_AWAY = (UnavailableError, MisconfiguredError)


class RedisLiveEvents:
    """`url` is `redis://`, `rediss://` or `unix://`."""

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        # Another connection, because XREAD blocks it.
        self._reading = connect(url)
        self._positions: dict[bytes, bytes] = {}
        self._watchers: dict[bytes, set[_Watcher]] = {}
        self._doorbell = f"aether:doorbell:{secrets.token_hex(8)}".encode()
        self._reader: asyncio.Task[None] | None = None
        self._away_until = 0.0

    async def publish(self, channel: str, frames: Sequence[LiveFrame]) -> None:
        if time.monotonic() < self._away_until:
            raise UnavailableError("The live event broker is away.")
        try:
            async with answered(_PUBLISH_S):
                await self._publish(_name(channel), frames)
        except _AWAY as exc:
            # Whoever publishes has stored already and waits for nobody: for a moment it is not even tried.
            self._away_until = time.monotonic() + _RETRY_S
            raise UnavailableError("The live event broker cannot be reached right now.") from exc

    async def _publish(self, name: bytes, frames: Sequence[LiveFrame]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for frame in frames:
                fields = {b"t": frame.type.encode(), b"b": frame.body}
                if frame.seq is not None:
                    fields[b"s"] = b"%d" % frame.seq
                pipe.xadd(name, fields, maxlen=_KEEP_FRAMES, approximate=True)
            if any(frame.seq is not None for frame in frames):
                pipe.expire(name, _KEEP_S)
            await pipe.execute()

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator["_Watcher"]:
        name = _name(channel)
        watcher = _Watcher()
        if name not in self._positions:
            try:
                end = await self._end_of(name)
            except _AWAY:
                # Streams hold what happened a while ago: those that were seen are dropped by their `seq`.
                end = b"0-0"
                watcher.push(Disturbed())
            self._positions.setdefault(name, end)
        self._watchers.setdefault(name, set()).add(watcher)
        try:
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._read_forever(), name="live events reader")
            else:
                # The reader sits in XREAD without this channel; the bell ends that call.
                with suppress(*_AWAY):
                    async with answered():
                        await self._redis.xadd(self._doorbell, {b"r": b"1"}, maxlen=1)
            yield watcher
        finally:
            watchers = self._watchers[name]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[name]
                self._positions.pop(name, None)

    async def append(self, stream: str, fields: dict[str, bytes]) -> None:
        async with answered():
            await self._redis.xadd(
                _name(stream), {k.encode(): v for k, v in fields.items()}, maxlen=_STREAM_FRAMES, approximate=True
            )

    async def entries(self, stream: str) -> AsyncIterator[dict[str, bytes]]:
        last = b"-"
        while True:
            async with answered():
                page = await self._redis.xrange(_name(stream), min=last, count=1000)
            for entry_id, fields in page:
                last = b"(" + entry_id
                yield {k.decode(): v for k, v in fields.items()}
            if not page:
                return

    async def ping(self) -> None:
        async with answered():
            await self._redis.execute_command("PING")

    async def close(self) -> None:
        if self._reader:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
            with suppress(*_AWAY):
                async with answered():
                    await self._redis.delete(self._doorbell)
        await self._redis.aclose()
        await self._reading.aclose()

    async def _end_of(self, name: bytes) -> bytes:
        async with answered():
            newest = await self._redis.xrevrange(name, count=1)
        return bytes(newest[0][0]) if newest else b"0-0"

    def _disturb(self) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.push(Disturbed())

    async def _read_forever(self) -> None:
        bell = b"0-0"
        is_away = False
        while True:
            streams: dict[Any, Any] = {**self._positions, self._doorbell: bell}
            try:
                async with answered(_BLOCK_MS / 1000 + 5):
                    answer = await self._reading.xread(streams, count=500, block=_BLOCK_MS)
            except _AWAY as exc:
                if not is_away:
                    get_logger().warning("live events disturbed", reason=exc.message)
                    self._disturb()
                is_away = True
                await asyncio.sleep(_RETRY_S)
                continue
            if is_away:
                is_away = False
                self._disturb()
            for name, entries in _items(answer):
                if name == self._doorbell:
                    bell = entries[-1][0]
                    continue
                if name in self._positions:
                    self._positions[name] = entries[-1][0]
                frames = [_frame(fields) for _, fields in entries]
                for watcher in self._watchers.get(name, ()):
                    for frame in frames:
                        watcher.push(frame)


class _Watcher:
    """A bounded queue. When it overflows it keeps one `Disturbed` instead of what it held."""

    def __init__(self) -> None:
        self._items: deque[LiveFrame | Disturbed] = deque()
        self._something = asyncio.Event()

    def push(self, item: LiveFrame | Disturbed) -> None:
        if len(self._items) >= _QUEUE_FRAMES:
            self._items.clear()
            self._items.append(Disturbed())
        self._items.append(item)
        self._something.set()

    async def next(self, timeout_s: float) -> Sequence[LiveFrame | Disturbed]:
        if not self._items:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._something.wait()
        items = list(self._items)
        self._items.clear()
        self._something.clear()
        return items


def _name(channel: str) -> bytes:
    return b"aether:" + channel.encode()


def _items(answer: Any) -> list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """XREAD's answer is a list in RESP2 and a map in RESP3."""
    if not answer:
        return []
    if isinstance(answer, dict):
        return [
            (name, entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries)
            for name, entries in answer.items()
        ]
    return [(name, entries) for name, entries in answer]


def _frame(fields: dict[bytes, bytes]) -> LiveFrame:
    seq = fields.get(b"s")
    return LiveFrame(int(seq) if seq is not None else None, fields[b"t"].decode(), fields[b"b"])
