"""Connections to providers that are kept for a while: found again by scheme, host and port, closed when nobody comes."""

import asyncio
import ssl
from collections import deque
from typing import NamedTuple

from aiohappyeyeballs import start_connection

from serve_app.core.errors import ProviderError, TimedOutError
from serve_app.router.http.addresses import Resolver
from serve_app.router.http.connection import Connection

_KEEP_S = 60.0
_SWEEP_S = 15.0
_MOST_IDLE = 1_000
_NEXT_ADDRESS_S = 0.25
"""RFC 8305: so long one address is tried alone before the next one is tried beside it."""


class Origin(NamedTuple):
    """`host` is a name in ASCII, or an address without brackets."""

    scheme: str
    host: str
    port: int


class Tls:
    """The certificates that are trusted; the system's unless `context` says otherwise. Read once, when first needed."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._lock = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        async with self._lock:
            if self._context is None:
                # Reading a few hundred certificates takes tens of milliseconds.
                self._context = await asyncio.to_thread(_new_context)
            return self._context


def _new_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Pool:
    """Belongs to the event loop that first uses it."""

    def __init__(self, resolver: Resolver, tls: Tls) -> None:
        self._resolver = resolver
        self._tls = tls
        self._idle: dict[Origin, deque[tuple[float, Connection]]] = {}
        self._idle_count = 0
        self._used: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    def take(self, origin: Origin) -> Connection | None:
        """The one that was used last, which is the least likely to be closed already."""
        waiting = self._idle.get(origin)
        while waiting:
            _, connection = waiting.pop()
            self._idle_count -= 1
            if connection.is_open:
                self._used.add(connection)
                return connection
            connection.close()
        return None

    async def connect(self, origin: Origin, timeout_s: float) -> Connection:
        """A new one.

        Raises:
            ProviderError: nobody is there, or the certificate is not to be trusted.
            TimedOutError: not within `timeout_s`.
            InvalidRequestError: the address is not allowed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connect(origin)
        except TimeoutError as exc:
            raise TimedOutError("The provider did not take the connection in time.") from exc
        except ssl.SSLCertVerificationError as exc:
            raise ProviderError(f"The provider's certificate is not trusted: {exc.verify_message}.") from exc
        except (OSError, ValueError) as exc:
            raise ProviderError("The provider cannot be reached.") from exc
        if self._is_closed:
            connection.close()
            raise ProviderError("The way to the providers is closed.")
        self._used.add(connection)
        return connection

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._resolver.find(origin.host, origin.port)
        tls = await self._tls.context() if origin.scheme == "https" else None
        sock = await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, loop=loop)
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(loop), sock=sock, ssl=tls, server_hostname=origin.host if tls else None
            )
        except BaseException:
            sock.close()
            raise
        return connection

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Kept if it can be used again, else closed."""
        self._used.discard(connection)
        if not connection.is_reusable or self._is_closed or self._idle_count >= _MOST_IDLE:
            connection.close()
            return
        connection.rest()
        now = asyncio.get_running_loop().time()
        self._idle.setdefault(origin, deque()).append((now + _KEEP_S, connection))
        self._idle_count += 1
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._close_old)

    def discard(self, connection: Connection) -> None:
        """Closed, whatever state it is in."""
        self._used.discard(connection)
        connection.close()

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for origin in list(self._idle):
            waiting = self._idle[origin]
            while waiting and (waiting[0][0] <= now or not waiting[0][1].is_open):
                waiting.popleft()[1].close()
                self._idle_count -= 1
            if not waiting:
                del self._idle[origin]
        self._sweep = loop.call_later(_SWEEP_S, self._close_old) if self._idle else None

    def close(self) -> None:
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for waiting in self._idle.values():
            for _, connection in waiting:
                connection.close()
        for connection in self._used:
            connection.close()
        self._idle.clear()
        self._used.clear()
