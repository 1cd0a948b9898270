"""The way to providers: sends a request over a kept connection, gives back a bounded answer."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache

from yarl import URL

from configs.catalog import Timeouts
from serve_app.core.errors import ProviderError, TimedOutError
from serve_app.router.http.addresses import Resolver
from serve_app.router.http.connection import Connection, SilentError
from serve_app.router.http.inflating import Inflater
from serve_app.router.http.pool import Origin, Pool, Tls

_SMALL_BYTES = 256 * 1024
_NOT_FROM_OUTSIDE = frozenset({"connection", "content-length", "transfer-encoding"})
"""What a connection is, and where a body ends, is said by us."""


@dataclass(frozen=True)
class Bounds:
    """How much of a provider's answer is held at one time, and how long an answer may be at all."""

    event_bytes: int
    answer_bytes: int


@dataclass(frozen=True)
class _Place:
    """An address, taken apart."""

    origin: Origin
    line: str
    host: str


class Incoming:
    """An answer whose head has come."""

    def __init__(
        self,
        connection: Connection,
        origin: Origin,
        pool: Pool,
        timeouts: Timeouts,
        bounds: Bounds,
        first_token_at: float,
        ends_at: float,
    ) -> None:
        self._connection: Connection | None = connection
        self._origin = origin
        self._pool = pool
        self._timeouts = timeouts
        self._bounds = bounds
        self._first_token_at = first_token_at
        self._ends_at = ends_at
        self.status = connection.status
        self.headers = connection.headers
        encoding = self.headers.get("content-encoding", "identity")
        self._inflater = None if encoding == "identity" else Inflater(encoding)

    async def whole(self) -> bytes:
        """The body. Raises `ProviderError` when it is longer than the bound, `TimedOutError` when it stalls."""
        connection = self._connection
        length = self.headers.get("content-length", "")
        if connection is None or self._inflater or not length.isdecimal() or int(length) > _SMALL_BYTES:
            return b"".join([chunk async for chunk in self.chunks()])
        if (whole := connection.whole()) is not None:
            return whole
        parts = []
        deadline = asyncio.get_running_loop().time() + self._timeouts.first_token
        while part := await connection.read(min(deadline, self._ends_at)):
            parts.append(part)
        return b"".join(parts)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes."""
        size = 0
        deadline = self._first_token_at
        loop = asyncio.get_running_loop()
        while (connection := self._connection) is not None:
            chunk = await connection.read(min(deadline, self._ends_at))
            if not chunk:
                return
            for piece in (chunk,) if self._inflater is None else self._inflater.feed(chunk):
                size += len(piece)
                if size > self._bounds.answer_bytes:
                    raise ProviderError("The provider's answer is too long.", max_bytes=self._bounds.answer_bytes)
                yield piece
            # What the client takes its time for is not the provider's. A stream that never waits ends all the same.
            now = loop.time()
            if now > self._ends_at:
                raise TimedOutError("The provider's answer took too long.")
            deadline = now + self._timeouts.between_tokens

    def close(self) -> None:
        """End the exchange. A connection whose answer was read to its end is kept, any other one is closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(self._origin, connection)


class Upstream:
    """Two pools: providers of the catalogue may be anywhere, an organisation's own only on public addresses.

    `tls`: for tests, whom to trust.
    """

    def __init__(self, bounds: Bounds, *, allows_private: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self._bounds = bounds
        self._allows_private = allows_private
        trusted = Tls(tls)
        self._public = Resolver(is_public_only=True)
        self._anywhere = Pool(Resolver(is_public_only=False), trusted)
        self._guarded = Pool(self._public, trusted)

    @asynccontextmanager
    async def post(
        self, url: str, body: bytes, headers: Sequence[tuple[str, str]], timeouts: Timeouts, *, is_tenants: bool
    ) -> AsyncIterator[Incoming]:
        incoming = await self.open(url, body, headers, timeouts, is_tenants=is_tenants)
        try:
            yield incoming
        finally:
            incoming.close()

    async def open(
        self, url: str, body: bytes, headers: Sequence[tuple[str, str]], timeouts: Timeouts, *, is_tenants: bool
    ) -> Incoming:
        """Send and wait for the head of the answer; the caller closes what it gets. No redirects are followed: a key is
        for the address it was given for, and nowhere else.

        Raises:
            ProviderError: no connection, or no HTTP.
            TimedOutError: no connection within `connect`, no head within `first_token` seconds.
            InvalidRequestError: an organisation's provider is not on a public address.
        """
        place = _place(url)
        origin = place.origin
        pool = self._anywhere
        if is_tenants and not self._allows_private:
            self._public.check(origin.host)
            pool = self._guarded
        head = _head(place, headers, len(body))
        now = asyncio.get_running_loop().time()
        ends_at = now + timeouts.total
        first_token_at = now + timeouts.first_token
        connection = pool.take(origin)
        if connection is not None and not await _is_heard(connection, head, body, min(first_token_at, ends_at), pool):
            # It was closed while it lay there. Nothing of an answer has come, so it is asked again: once, on a new one.
            connection = None
        if connection is None:
            connection = await pool.connect(origin, min(timeouts.connect, timeouts.first_token))
            if not await _is_heard(connection, head, body, min(first_token_at, ends_at), pool):
                raise ProviderError("The provider closed the connection before it answered.")
        try:
            return Incoming(connection, origin, pool, timeouts, self._bounds, first_token_at, ends_at)
        except ProviderError:
            pool.discard(connection)
            raise

    async def close(self) -> None:
        self._anywhere.close()
        self._guarded.close()
        # The event loop closes sockets in its next turn.
        await asyncio.sleep(0)


async def _is_heard(connection: Connection, head: bytes, body: bytes, deadline: float, pool: Pool) -> bool:
    """Whether an answer has begun. False: the connection ended without a byte. Raises what `exchange` raises."""
    has_begun = False
    try:
        await connection.exchange(head, body, deadline)
        has_begun = True
    except SilentError:
        return False
    finally:
        if not has_begun:
            pool.discard(connection)
    return True


@lru_cache(maxsize=2_000)
def _place(url: str) -> _Place:
    try:
        target = URL(url, encoded=True)
        host, port = target.raw_host, target.port
        path = target.raw_path_qs
        named = target.host_port_subcomponent
    except ValueError as exc:
        raise ProviderError("The provider's address is not valid.") from exc
    is_plain = path.isascii() and path.isprintable() and " " not in path
    if (
        target.scheme not in {"http", "https"}
        or not host
        or not port
        or not named
        or not host.isascii()
        or not is_plain
    ):
        raise ProviderError("The provider's address is not valid.")
    return _Place(Origin(target.scheme, host, port), f"POST {path} HTTP/1.1\r\n", named)


def _head(place: _Place, headers: Sequence[tuple[str, str]], length: int) -> bytes:
    """Raises `ProviderError` for a header that would end before its value does, such as a key with a line end."""
    lines = [place.line]
    given = set()
    for name, value in headers:
        lower = name.lower()
        if lower in _NOT_FROM_OUTSIDE:
            continue
        if not _is_line(value) or not _is_line(name):
            raise ProviderError(f"The value of the header '{lower[:50]}' for this provider has a line end in it.")
        given.add(lower)
        lines.append(f"{name}: {value}\r\n")
    # What is passed on must come as it is: no compression is asked for.
    for name, value in (("host", place.host), ("accept-encoding", "identity"), ("user-agent", "AetherOS")):
        if name not in given:
            lines.append(f"{name}: {value}\r\n")
    lines.append(f"content-length: {length}\r\n\r\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _is_line(text: str) -> bool:
    return "\n" not in text and "\r" not in text and "\0" not in text
