"""A provider that plays a script on each connection, byte by byte, and short ways to ask it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from configs.catalog import Timeouts
from serve_app.core.errors import ProviderError, TimedOutError
from serve_app.router.upstream import Bounds, Incoming, Upstream

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BOUNDS = Bounds(event_bytes=2**20, answer_bytes=4 * 2**20)
QUICK = Timeouts(connect=2, first_token=0.3, between_tokens=0.3, total=5)
USUAL = Timeouts(connect=2, first_token=5, between_tokens=5, total=20)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Provider:
    """Plays a script on each connection, and keeps what it was asked."""

    script: Script
    port: int = 0
    connections: int = 0
    asked: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/x"

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        self.asked.append(head + body)
        return head + body


@asynccontextmanager
async def playing(script: Callable[[Provider], Script], tls: ssl.SSLContext | None = None) -> AsyncIterator[Provider]:
    provider = Provider(lambda reader, writer: asyncio.sleep(0))
    provider.script = script(provider)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        provider.connections += 1
        try:
            await provider.script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, limit=2**20)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()


def saying(*pieces: bytes, pause_s: float = 0.01) -> Callable[[Provider], Script]:
    """The same to each request, piece by piece; then the end of the connection."""

    def of(provider: Provider) -> Script:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await provider.read_request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)

        return play

    return of


def keeping(*answers: bytes) -> Callable[[Provider], Script]:
    """One answer a request on each connection, which is then closed."""

    def of(provider: Provider) -> Script:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in answers:
                await provider.read_request(reader)
                writer.write(answer)
                await writer.drain()

        return play

    return of


async def ask(upstream: Upstream, url: str, timeouts: Timeouts = USUAL, body: bytes = b"{}") -> Incoming:
    return await upstream.open(url, body, [("authorization", "Bearer sk")], timeouts, is_tenants=False)


async def answer(upstream: Upstream, url: str, timeouts: Timeouts = USUAL) -> bytes:
    incoming = await ask(upstream, url, timeouts)
    try:
        return await incoming.whole()
    finally:
        incoming.close()


async def streamed(incoming: Incoming) -> tuple[bytes, Exception | None]:
    """All that came, and how it ended."""
    found = bytearray()
    try:
        async for chunk in incoming.chunks():
            found += chunk
    except (ProviderError, TimedOutError) as exc:
        return bytes(found), exc
    finally:
        incoming.close()
    return bytes(found), None
