"""One connection to a supervisor: frames checked and bounded as they come, or raw bytes once an operation turned it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from actors.sandbox.door.wire import DATA, DATA2, ERROR, HEADER, MOST_FROM_INSIDE, REQUEST, RESULT, frame
from serve_app.core.errors import AetherError, SandboxLostError, SandboxProtocolError, TimedOutError

HIGH_BYTES: Final = 1024 * 1024
"""What is held for a slow reader before the sandbox has to wait."""
_LOW_BYTES: Final = 256 * 1024
_WRITE_HIGH_BYTES: Final = 512 * 1024
_EACH_BYTES: Final = 96
"""What a piece costs beside its bytes: a flood of empty frames is bounded too."""
_JOINED_BYTES: Final = 64 * 1024
_LINGER_S: Final = 10.0


class Connection(asyncio.Protocol):
    """Reads are taken by one caller at a time. Whoever got it from a `Dial` closes it."""

    def __init__(self, *, is_raw: bool = False) -> None:
        self.prefix = b""
        """Goes out before the first request, in the same write."""
        self.turns_raw = False
        """Whether the next `RESULT` makes this a raw connection."""
        self.is_over = True
        """No operation is under way: nothing may come."""
        self.on_lost: Callable[[Connection], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._held = 0
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._drainers: list[asyncio.Future[None]] = []
        self._is_clogged = False
        self._failure: AetherError | None = None
        self._head = b""
        self._kind = 0
        self._left = 0
        self._parts: list[bytes] = []
        self._is_raw = is_raw
        self._has_eof = False
        self._has_ended = False
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._sink: Callable[[bytes], None] | None = None
        self._on_clog: Callable[[bool], None] | None = None
        self._on_end: Callable[[], None] | None = None

    # --- what the loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Only streams are dialled; uvloop's transports do not say so by their class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES, low=_WRITE_HIGH_BYTES // 4)

    def data_received(self, data: bytes) -> None:
        if self._is_raw:
            self._take(DATA, data)
            return
        try:
            self._parse(data)
        except SandboxProtocolError as exc:
            self._fail(exc)
            self.abort()

    def eof_received(self) -> bool:
        self._has_eof = True
        self._wake()
        if not self._is_raw:
            return False
        if self._on_end:
            self._on_end()
        return self._transport is not None and self._transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncio's
        self._has_eof = True
        self._fail(SandboxLostError("The connection to the sandbox was lost."))
        if not self._closed.done():
            self._closed.set_result(None)
        if self._on_end:
            self._on_end()
        if self.on_lost:
            self.on_lost(self)

    def pause_writing(self) -> None:
        self._is_clogged = True
        if self._on_clog:
            self._on_clog(True)

    def resume_writing(self) -> None:
        self._is_clogged = False
        self._unblock()
        if self._on_clog:
            self._on_clog(False)

    def become_raw(self) -> None:
        """At once, without an operation: for a connection nothing has been read from yet."""
        self._is_raw = True

    # --- reading ---

    @property
    def has_unread(self) -> bool:
        """Something has come that nobody has received yet."""
        return bool(self._queue)

    async def receive(self, timeout_s: float | None) -> tuple[int, bytes]:
        """The next frame. A frame of data may come in several pieces, each as a frame of its own.

        Raises:
            SandboxLostError: the connection has ended.
            SandboxProtocolError: what came is not the protocol.
            TimedOutError: nothing came for so long.
        """
        while not self._queue:
            if self._failure is not None:
                raise self._again()
            await self._wait(timeout_s)
        kind, payload = self._queue.popleft()
        self._let_go(payload)
        return kind, payload

    async def read(self, timeout_s: float | None = None) -> bytes:
        """Raw bytes as they come, never more than the loop reads at once; empty at the end."""
        while not self._queue:
            if self._has_eof or self._failure is not None:
                return b""
            await self._wait(timeout_s)
        payload = self._queue.popleft()[1]
        self._let_go(payload)
        return payload

    def couple(
        self, sink: Callable[[bytes], None], on_clog: Callable[[bool], None], on_end: Callable[[], None]
    ) -> None:
        """Raw only: from now on what comes goes to `sink` at once, first what is held already."""
        self._sink, self._on_clog, self._on_end = sink, on_clog, on_end
        while self._queue:
            payload = self._queue.popleft()[1]
            self._let_go(payload)
            sink(payload)
        if self._is_clogged:
            on_clog(True)
        if self._has_eof:
            on_end()

    def pause(self, *, is_paused: bool) -> None:
        """Stop or go on reading, for whoever coupled this connection to another one."""
        if self._transport is None or self._transport.is_closing() or self._has_eof or is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        if is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- writing ---

    def request(self, payload: bytes, *, turns_raw: bool = False) -> None:
        """Begin an operation."""
        self.is_over = False
        self.turns_raw = turns_raw
        out = self.prefix + frame(REQUEST, payload)
        self.prefix = b""
        self.write(out)

    def send(self, kind: int, payload: bytes = b"") -> None:
        if len(payload) > _JOINED_BYTES:
            self.write(HEADER.pack(len(payload), kind))
            self.write(payload)
        else:
            self.write(frame(kind, payload))

    def write(self, data: bytes) -> None:
        """What comes after the end of our side, or of the connection, is dropped."""
        if self._transport is not None and not self._transport.is_closing() and not self._has_ended:
            self._transport.write(data)

    async def drain(self, timeout_s: float | None) -> None:
        """Until there is room again, or the operation is over. Raises as `receive` does."""
        if self._failure is not None and (self._is_raw or not self._queue):
            raise self._again()
        if not self._is_clogged or (self.is_over and not self._is_raw):
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, _time_out, waiter) if timeout_s is not None else None
        self._drainers.append(waiter)
        try:
            await waiter
        finally:
            self._drainers.remove(waiter)
            if timer:
                timer.cancel()
        if self._failure is not None and self._is_raw:
            raise self._again()

    def end(self) -> None:
        """No more from us; a transport that cannot close one direction is closed."""
        if self._transport is None or self._transport.is_closing() or self._has_ended:
            return
        self._has_ended = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    # --- its end ---

    @property
    def is_closing(self) -> bool:
        return self._failure is not None or self._has_eof or self._transport is None or self._transport.is_closing()

    @property
    def is_closed(self) -> bool:
        """In both directions."""
        return self._failure is not None or self._transport is None or self._transport.is_closing()

    @property
    def is_gone(self) -> bool:
        """Nothing of it is left."""
        return self._closed.done()

    @property
    def descriptor(self) -> int:
        """-1 when it is closed."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        return -1 if sock is None else sock.fileno()

    def close(self) -> None:
        """What is written still goes out, for a while."""
        if self._transport:
            self._transport.close()
            if not self._closed.done() and self._transport.get_write_buffer_size():
                timer = self._loop.call_later(_LINGER_S, self.abort)
                self._closed.add_done_callback(lambda _: timer.cancel())

    def abort(self) -> None:
        """At once. Inside, the operation under way is cancelled."""
        if self._transport:
            self._transport.abort()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    # --- parsing ---

    def _parse(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size:
            if self.is_over:
                raise SandboxProtocolError("The sandbox sent more than it was asked for.")
            if self._left == 0:
                if self._head or size - at < HEADER.size:
                    taken = data[at : at + HEADER.size - len(self._head)]
                    self._head += taken
                    at += len(taken)
                    if len(self._head) < HEADER.size:
                        return
                    length, kind = HEADER.unpack(self._head)
                    self._head = b""
                else:
                    length, kind = HEADER.unpack_from(data, at)
                    at += HEADER.size
                if length > MOST_FROM_INSIDE.get(kind, -1):
                    raise SandboxProtocolError("The sandbox sent a frame of a kind or length that is not allowed.")
                self._kind, self._left = kind, length
                if length == 0:
                    self._accept(kind, b"")
                    continue
                if at == size:
                    return
            taken = data if at == 0 and size <= self._left else data[at : at + self._left]
            at += len(taken)
            self._left -= len(taken)
            if self._kind in {DATA, DATA2}:
                self._take(self._kind, taken)
            elif self._left or self._parts:
                self._parts.append(taken)
                if not self._left:
                    whole = b"".join(self._parts)
                    self._parts.clear()
                    self._accept(self._kind, whole)
            else:
                self._accept(self._kind, taken)
            if self._is_raw:
                if at < size:
                    self._take(DATA, data[at:])
                return

    def _accept(self, kind: int, payload: bytes) -> None:
        if kind in {RESULT, ERROR}:
            self.is_over = True
            self._is_raw = self.turns_raw and kind == RESULT
            self._unblock()
        self._take(kind, payload)

    def _take(self, kind: int, payload: bytes) -> None:
        if self._sink:
            self._sink(payload)
            return
        self._queue.append((kind, payload))
        self._held += len(payload) + _EACH_BYTES
        if self._held > HIGH_BYTES:
            self.pause(is_paused=True)
        self._wake()

    def _let_go(self, payload: bytes) -> None:
        self._held -= len(payload) + _EACH_BYTES
        if self._is_paused and self._held <= _LOW_BYTES:
            self.pause(is_paused=False)

    # --- waiting ---

    async def _wait(self, timeout_s: float | None) -> None:
        self._waiter = waiter = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, _time_out, waiter) if timeout_s is not None else None
        try:
            await waiter
        finally:
            self._waiter = None
            if timer:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _unblock(self) -> None:
        for waiter in self._drainers:
            if not waiter.done():
                waiter.set_result(None)

    def _fail(self, failure: AetherError) -> None:
        if self._failure is None:
            self._failure = failure
        self._wake()
        self._unblock()

    def _again(self) -> AetherError:
        """A fresh one each time: an exception raised twice gathers both tracebacks."""
        failure = self._failure
        assert failure is not None  # noqa: S101 - asked for only when there is one
        return type(failure)(failure.message, **failure.details)


def _time_out(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimedOutError("The sandbox did not answer in time."))
