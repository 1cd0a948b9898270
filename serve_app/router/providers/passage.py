"""A provider's stream on its way to a client: read by whole events, changed as its dialect wants, closed in any case."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from serve_app.core.errors import ProviderError
from serve_app.router.providers.base import Tally
from serve_app.router.providers.transport import Incoming
from serve_app.router.sse import EventSplitter


class Reader(Protocol):
    """What happens to the events. It keeps `tally`, and says by `tally.is_whole` that the last one has come."""

    tally: Tally

    def take(self, whole: bytes) -> bytes:
        """The bytes for the client, none or some, for these whole events. Raises `AetherError`."""
        ...

    def rest(self, rest: bytes) -> bytes:
        """The same for what came behind the last whole event, when the provider has ended the stream."""
        ...


class Passage:
    """Owns the incoming stream from `begin` on."""

    def __init__(self, incoming: Incoming, reader: Reader, event_bytes: int) -> None:
        self._incoming = incoming
        self._chunks = incoming.chunks()
        self._reader = reader
        self._splitter = EventSplitter(event_bytes)

    async def begin(self) -> AsyncGenerator[bytes, None]:
        """Wait for the first bytes for the client; what comes back gives these and all that follow.

        Raises:
            AetherError: nothing has been given to anybody yet, so somebody else may be asked.
        """
        has_begun = False
        try:
            async for chunk in self._chunks:
                if (whole := self._splitter.feed(chunk)) and (first := self._reader.take(whole)):
                    has_begun = True
                    return self._pieces(first)
            raise ProviderError("The provider ended the stream before it began.")
        finally:
            if not has_begun:
                await self._close()

    async def _pieces(self, first: bytes) -> AsyncGenerator[bytes, None]:
        reader, splitter = self._reader, self._splitter
        try:
            async with aclosing(self._chunks) as chunks:
                yield first
                async for chunk in chunks:
                    if (whole := splitter.feed(chunk)) and (piece := reader.take(whole)):
                        yield piece
                if piece := reader.rest(splitter.rest()):
                    yield piece
            if not reader.tally.is_whole:
                raise ProviderError("The provider ended the stream before the answer was whole.")
        finally:
            self._incoming.close()

    async def _close(self) -> None:
        await self._chunks.aclose()
        self._incoming.close()
