"""One HTTP/1.1 connection to a provider: a request goes out, and its answer is read as it comes, within bounds."""

import asyncio
from typing import cast

import httptools

from serve_app.core.errors import ProviderError, TimedOutError

_MAX_HEAD_BYTES = 64 * 1024
"""Of a head, and of anything else that is no body: trailers, the lines of chunks, interim answers."""
_MOST_HELD_BYTES = 128 * 1024
"""Of a body that nobody has taken yet; more is left to the network. One read may go over it."""


class SilentError(Exception):
    """The provider ended the connection, and had said nothing to this request."""


class Connection(asyncio.Protocol):
    """`exchange`, then `read` until it gives nothing; one exchange at a time. Whoever holds it closes it, or gives it
    back to the pool when it `is_reusable`.

    Deadlines are times of the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._deadline = 0.0
        self._is_asked = False
        self._is_paused = False
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """By names in lower case, the first of each."""
        self.is_complete = False
        self._has_head = False
        self._is_interim = False
        self._keeps = False
        self._error: Exception | None = None
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._idle_bytes = 0
        self._head_bytes = 0

    # --- for whoever holds it ---

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """The exchange is over, both sides have said all, and the provider keeps the connection."""
        transport = self._transport
        return (
            self.is_complete
            and self._keeps
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    async def exchange(self, request: bytes, body: bytes, deadline: float) -> None:
        """Send, and wait for the head of the answer: `status` and `headers`.

        Raises:
            SilentError: the connection ended before a byte of an answer.
            ProviderError: what came is no HTTP, or too much.
            TimedOutError: nothing came in time.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise SilentError
        self._begin()
        self._is_asked = True
        if len(body) < _MAX_HEAD_BYTES:
            transport.write(request + body)
        else:
            transport.write(request)
            transport.write(body)
        while not self._has_head:
            if self._error is not None:
                raise self._error
            await self._change(deadline)

    async def read(self, deadline: float) -> bytes:
        """More of the body, as soon as there is some; empty at its end. What came before a failure comes before it."""
        while True:
            if self._pieces:
                return self._take()
            if self.is_complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._change(deadline)

    def whole(self) -> bytes | None:
        """The rest of the body if all of it is there."""
        return self._take() if self.is_complete else None

    def rest(self) -> None:
        """Nobody asks for anything: what comes now was not asked for, and ends the connection."""
        self._is_asked = False
        self._pieces.clear()
        self._resume()

    def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._transport is not None:
            # At once: whatever waits to be written has lost its reader.
            self._transport.abort()

    def _take(self) -> bytes:
        pieces = self._pieces
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._held_bytes = 0
        self._resume()
        return taken

    def _resume(self) -> None:
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    # --- waiting ---

    async def _change(self, deadline: float) -> None:
        self._deadline = deadline
        if self._alarm is None or self._alarm_at > deadline:
            self._set_alarm()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_alarm(self) -> None:
        """One alarm serves many waits: most end long before it rings, and it then finds a later deadline or none."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = self._deadline
        self._alarm = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._set_alarm()
            return
        self._waiter.set_exception(TimedOutError("The provider did not answer in time."))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self.is_complete:
            self._error = error
        self._keeps = False
        self._wake()

    # --- from the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        if not self._is_asked or self.is_complete or self._error is not None:
            self._keeps = False
            self.close()
            return
        self._idle_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(ProviderError("The provider does not speak HTTP, or not as it should."))
        if self._idle_bytes > _MAX_HEAD_BYTES or self._head_bytes > _MAX_HEAD_BYTES:
            # Also when it came at once with all the rest.
            self.is_complete = False
            self._fail(ProviderError("The head of the provider's answer is too long.", max_bytes=_MAX_HEAD_BYTES))
        if self._error is not None:
            self.close()
        elif self._has_head:
            if self._held_bytes > _MOST_HELD_BYTES and not self._is_paused and self._transport is not None:
                self._is_paused = True
                self._transport.pause_reading()
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._keeps = False
        self._transport = None
        if not self._is_asked or self.is_complete or self._error is not None:
            return
        if not self._has_head:
            is_silent = not self._idle_bytes and not self._head_bytes
            told = ProviderError("The provider closed the connection before it answered.")
            self._fail(SilentError() if is_silent else told)
        elif exc is None and self._ends_with_connection():
            self.is_complete = True
            self._wake()
        else:
            self._fail(ProviderError("The provider broke the answer off."))

    def _ends_with_connection(self) -> bool:
        """An answer that says no length and comes in no chunks ends where the connection does."""
        is_chunked = self.headers.get("transfer-encoding", "").lower().endswith("chunked")
        return "content-length" not in self.headers and not is_chunked

    # --- from the parser, within `data_received` ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if not self._has_head and self._head_bytes <= _MAX_HEAD_BYTES:
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        if self.is_complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._is_interim = True
            self.headers.clear()
            return
        self.status = status
        self._has_head = True
        self._idle_bytes = 0

    def on_body(self, piece: bytes) -> None:
        if self.is_complete:
            return
        self._pieces.append(piece)
        self._held_bytes += len(piece)
        self._idle_bytes = 0

    def on_message_begin(self) -> None:
        if self.is_complete:
            # A second answer to one question: whose it is nobody knows.
            self._keeps = False

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
            return
        if not self.is_complete:
            self.is_complete = True
            self._keeps = self._parser.should_keep_alive()
