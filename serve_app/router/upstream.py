"""The pool of connections to providers: sends a request, gives back a bounded answer, translates what goes wrong."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from configs.catalog import Timeouts
from serve_app.core.errors import InvalidRequestError, ProviderError, TimedOutError

_KEEP_ALIVE_S = 60.0
_SMALL_BYTES = 256 * 1024
_MAX_HEADER_BYTES = 32 * 1024


@dataclass(frozen=True)
class Bounds:
    """How much of a provider's answer is held at one time, and how long an answer may be at all."""

    event_bytes: int
    answer_bytes: int


class Incoming:
    """An answer whose head has come."""

    def __init__(
        self, response: aiohttp.ClientResponse, timeouts: Timeouts, bounds: Bounds, first_token_at: float
    ) -> None:
        self._response = response
        self._timeouts = timeouts
        self._first_token_at = first_token_at
        self._bounds = bounds
        self.status = response.status
        self.headers = response.headers

    async def whole(self) -> bytes:
        """The body. Raises `ProviderError` when it is longer than the bound, `TimedOutError` when it stalls."""
        length = self._response.content_length
        if length is None or length > _SMALL_BYTES:
            return b"".join([chunk async for chunk in self.chunks()])
        with _translated():
            async with asyncio.timeout(self._timeouts.first_token):
                return await self._response.read()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes."""
        size = 0
        deadline = self._first_token_at
        loop = asyncio.get_running_loop()
        content = self._response.content
        while True:
            with _translated():
                async with asyncio.timeout_at(deadline):
                    chunk = await content.readany()
            if not chunk:
                return
            size += len(chunk)
            if size > self._bounds.answer_bytes:
                raise ProviderError("The provider's answer is too long.", max_bytes=self._bounds.answer_bytes)
            yield chunk
            # What the client takes its time for is not the provider's.
            deadline = loop.time() + self._timeouts.between_tokens

    def close(self) -> None:
        """End the exchange. A connection whose answer was read to its end is kept, any other one is closed."""
        self._response.close() if not self._response.content.at_eof() else self._response.release()


class _translated:  # noqa: N801 - reads as a word in `with`
    """The client's errors as ours. A class and not a generator: it stands around every chunk."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        match exc:
            case None:
                return
            case TimeoutError():
                raise TimedOutError("The provider did not answer in time.") from exc
            case aiohttp.ClientPayloadError():
                raise ProviderError("The provider broke the answer off.") from exc
            case aiohttp.InvalidURL() | aiohttp.InvalidUrlClientError():
                raise ProviderError("The provider's address is not valid.") from exc
            case aiohttp.ClientError() | OSError() | ValueError():
                raise ProviderError("The provider cannot be reached, or does not speak HTTP.") from exc


class Upstream:
    """Two pools: providers of the catalogue may be anywhere, an organisation's own only on public addresses."""

    def __init__(self, bounds: Bounds, *, allows_private: bool = False) -> None:
        self._bounds = bounds
        self._allows_private = allows_private
        self._trusted: aiohttp.ClientSession | None = None
        self._tenants: aiohttp.ClientSession | None = None

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
        """Send and wait for the head of the answer; the caller closes what it gets.

        Raises:
            ProviderError: no connection, or no HTTP.
            TimedOutError: no connection within `connect`, no head within `first_token` seconds.
            InvalidRequestError: an organisation's provider is not on a public address.
        """
        target = URL(url, encoded=True)
        guarded = is_tenants and not self._allows_private
        if guarded and not _may_be_public(target.host):
            raise _private(target.host)
        session = self._session(guarded)
        timeout = aiohttp.ClientTimeout(
            total=timeouts.total, sock_connect=timeouts.connect, connect=None, sock_read=None, ceil_threshold=1e9
        )
        first_token_at = asyncio.get_running_loop().time() + timeouts.first_token
        with _translated():
            async with asyncio.timeout_at(first_token_at):
                # No redirects: a key is for the address it was given for, and nowhere else.
                response = await session.post(
                    target, data=body, headers=headers, timeout=timeout, allow_redirects=False
                )
        return Incoming(response, timeouts, self._bounds, first_token_at)

    def _session(self, guarded: bool) -> aiohttp.ClientSession:
        """Made when first needed: a session belongs to the event loop it is made in."""
        if guarded:
            if self._tenants is None:
                self._tenants = _new_session(PublicResolver())
            return self._tenants
        if self._trusted is None:
            self._trusted = _new_session(None)
        return self._trusted

    async def close(self) -> None:
        for session in (self._trusted, self._tenants):
            if session is not None:
                await session.close()


def _new_session(resolver: AbstractResolver | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        # What is passed on must come as it is: no compression is asked for.
        headers={"accept-encoding": "identity", "user-agent": "AetherOS"},
        trust_env=False,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        read_bufsize=64 * 1024,
    )


class PublicResolver(AbstractResolver):
    """Names resolve to public addresses or not at all, whatever a hostile name server says this time."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not all(_may_be_public(result["host"]) for result in found):
            raise _private(host)
        return found

    async def close(self) -> None:
        await self._inner.close()


def _may_be_public(host: str | None) -> bool:
    """False for an address that is not public; a name is judged when it is resolved."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return bool(host)
    if isinstance(address, ipaddress.IPv6Address) and any(address in network for network in _CARRYING_IPV4):
        # What stands inside may be anything, and no provider is reached this way.
        return False
    return address.is_global and not address.is_multicast


_CARRYING_IPV4 = tuple(
    ipaddress.IPv6Network(network)
    for network in ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


def _private(host: str | None) -> InvalidRequestError:
    return InvalidRequestError(f"The provider's address '{host}' is not a public one.", param="base_url")
