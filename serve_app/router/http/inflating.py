"""Answers that a provider compressed although it was asked not to, opened piece by piece."""

import zlib
from collections.abc import Iterator

from serve_app.core.errors import ProviderError

_PIECE_BYTES = 256 * 1024


class Inflater:
    """`encoding` is the value of `content-encoding`. What is opened at one time is bounded, however small it came."""

    def __init__(self, encoding: str) -> None:
        if encoding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
            raise ProviderError(f"The provider compressed its answer in a way it was not asked for: '{encoding[:50]}'.")
        # 32: the header tells which of both it is.
        self._inner = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What is in it, in pieces of 256 KiB at most. Raises `ProviderError`."""
        while chunk:
            try:
                piece = self._inner.decompress(chunk, _PIECE_BYTES)
            except zlib.error as exc:
                raise ProviderError("The provider's answer is compressed, and broken.") from exc
            chunk = self._inner.unconsumed_tail
            if piece:
                yield piece
