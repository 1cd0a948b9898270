"""A provider's stream on its way to a client: read by whole events, changed as its dialect wants, closed in any case."""

import asyncio
from contextlib import suppress
from typing import Protocol, Self

from serve_app.core.errors import AetherError, ProviderError
from serve_app.router.providers.base import Pieces, Tally
from serve_app.router.providers.transport import Incoming
from serve_app.router.sse import EventSplitter

_GOODBYE_S = 0.25
"""How long a provider that has said everything may take to end the stream, so that its connection can be kept."""


class Reader(Protocol):
    """What happens to the events. It keeps `tally`, and says by `tally.is_whole` that the last one has come."""

    tally: Tally
    failure: AetherError | None
    """What came behind the bytes it gave last: they are still the client's, and nothing follows them."""

    def take(self, whole: bytes) -> bytes:
        """The bytes for the client, none or some, for these whole events. Raises `AetherError` where it has none."""
        ...

    def rest(self, rest: bytes) -> bytes:
        """The same for what came behind the last whole event, when the provider has ended the stream."""
        ...


class Passage(Pieces):
    """Owns the incoming stream. A class and not a generator: one that was never begun would never be closed."""

    def __init__(self, incoming: Incoming, reader: Reader, event_bytes: int) -> None:
        self._incoming = incoming
        self._chunks = incoming.chunks()
        self._reader = reader
        self._splitter = EventSplitter(event_bytes)
        self._first: bytes | None = None
        self._is_over = False

    async def begin(self) -> Self:
        """Wait for the first bytes for the client.

        Raises:
            AetherError: nothing has been given to anybody yet, so somebody else may be asked.
        """
        try:
            self._first = await self._next()
            if failure := self._failure():
                raise failure
            if self._first is None:
                raise ProviderError("The provider ended the stream before it began.")
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        piece = first if first is not None else await self._next()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._is_over = True
        await self._chunks.aclose()
        self._incoming.close()

    async def _next(self) -> bytes | None:
        """None when the stream is over, and whole. Raises `AetherError` when it broke off."""
        reader = self._reader
        while not self._is_over:
            if reader.tally.is_whole:
                # Whatever happens now: nothing of the answer is missing.
                await self._say_goodbye()
                return None
            if reader.failure:
                break
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                self._is_over = True
                if piece := reader.rest(self._splitter.rest()):
                    return piece
                break
            if (whole := self._splitter.feed(chunk)) and (piece := reader.take(whole)):
                return piece
        if failure := self._failure():
            raise failure
        if not reader.tally.is_whole:
            raise ProviderError("The provider ended the stream before the answer was whole.")
        return None

    def _failure(self) -> AetherError | None:
        return None if self._reader.tally.is_whole else self._reader.failure

    async def _say_goodbye(self) -> None:
        with suppress(AetherError, TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(_GOODBYE_S):
                await anext(self._chunks)
        await self.aclose()
