"""For decoders of streams that do not say where a block begins and ends: one block is open at a time."""

from collections.abc import Iterator

from serve_app.router.dialects.canonical import Block, BlockEnded, BlockStarted, StreamEvent


class OneOpenBlock:
    """What a decoder starts ends what was open before it."""

    def __init__(self) -> None:
        self._count = 0
        self._open: Block | None = None

    @property
    def _index(self) -> int:
        return self._count - 1

    def _open_as(self, block: Block) -> Iterator[StreamEvent]:
        """Goes on with the open block when it is of this kind."""
        if type(self._open) is not type(block):
            yield from self._start(block)

    def _start(self, block: Block) -> Iterator[StreamEvent]:
        yield from self._close()
        self._open = block
        self._count += 1
        yield BlockStarted(self._index, block)

    def _close(self) -> Iterator[StreamEvent]:
        if self._open is not None:
            yield BlockEnded(self._index)
        self._open = None
