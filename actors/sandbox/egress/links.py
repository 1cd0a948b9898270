"""Connections as the proxy sees them: bytes both ways, each way ended by itself; and where they come from."""

import asyncio
from typing import Protocol

from actors.sandbox.egress.budget import Traffic

_READ_BYTES = 256 * 1024
_FLUSH_S = 10.0


class Link(Protocol):
    """One connection. Used by one reader and one writer; whoever got it closes it."""

    async def read(self) -> bytes:
        """What has come, at least one byte; nothing (`b""`) when the other side has ended."""
        ...

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more."""
        ...

    def end(self) -> None:
        """Nothing more will be written; reading goes on."""
        ...

    def close(self) -> None:
        """What was written still goes out. May be called again."""
        ...


class Offers(Protocol):
    """Where programs' connections to the proxy come from."""

    async def egress_offer(self) -> Link:
        """Offer one and wait, for as long as it takes, until a program inside has connected."""
        ...


class StreamLink:
    """A link over asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def has_ended(self) -> bool:
        """Whether the other side has ended and everything was read: nothing can be asked here any more."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def read(self) -> bytes:
        return await self._reader.read(_READ_BYTES)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def end(self) -> None:
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()

    def close(self) -> None:
        if not self._writer.is_closing():
            self._writer.close()
            # A side that never reads would keep what was written to it, and the socket, forever.
            asyncio.get_running_loop().call_later(_FLUSH_S, self._writer.transport.abort)


class MeteredLink:
    """A link to the outside on which every byte is paid from the sandbox's allowance.

    Paid here and not on the sandbox's side, so that the proxy can still say no when nothing is left.
    """

    def __init__(self, inner: StreamLink, traffic: Traffic) -> None:
        self._inner = inner
        self.traffic = traffic
        """Whose bytes these are now: a connection that is kept serves one request after the other."""

    @property
    def has_ended(self) -> bool:
        return self._inner.has_ended

    async def read(self) -> bytes:
        return self.traffic.came_down(await self._inner.read())

    async def write(self, data: bytes) -> None:
        self.traffic.goes_up(len(data))
        await self._inner.write(data)

    def end(self) -> None:
        self._inner.end()

    def close(self) -> None:
        self._inner.close()
