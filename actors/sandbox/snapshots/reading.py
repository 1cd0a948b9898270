"""Files fetched from a sandbox as one stream, and cut into chunks."""

import struct
from collections.abc import AsyncGenerator, AsyncIterable

from actors.sandbox.snapshots.records import CHUNK_BYTES
from serve_app.core.errors import SandboxFullError, SandboxProtocolError

_SIZE = struct.Struct(">Q")
_GONE = 2**64 - 1


class Allowance:
    """How many bytes may still be read from a sandbox: it may say that a file is as long as it likes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._left = most_bytes

    def spend(self, size: int) -> None:
        """Raises `SandboxFullError`."""
        if size > self._left:
            raise SandboxFullError(
                f"The workspace has more than {self._most} bytes; files with holes count whole. Delete some.",
                limit="disk",
            )
        self._left -= size


async def chunks_of(
    stream: AsyncIterable[bytes], files: int, allowance: Allowance
) -> AsyncGenerator[tuple[int, bytes | None], None]:
    """The number of a file and its next chunk, in order; None once instead for one that is gone. An empty one has none.

    Raises:
        SandboxProtocolError: the stream has another form or length.
        SandboxFullError: it is longer than allowed.
    """
    buffer = bytearray()
    number, left = -1, 0
    async for piece in stream:
        buffer += piece
        while True:
            if left:
                size = min(left, CHUNK_BYTES)
                if len(buffer) < size:
                    break
                yield number, bytes(memoryview(buffer)[:size])
                del buffer[:size]
                left -= size
                continue
            if len(buffer) < _SIZE.size:
                break
            number += 1
            if number >= files:
                raise SandboxProtocolError("The sandbox sent more files than it was asked for.")
            (left,) = _SIZE.unpack_from(buffer)
            del buffer[: _SIZE.size]
            if left == _GONE:
                left = 0
                yield number, None
            allowance.spend(left)
    if left or buffer or number != files - 1:
        raise SandboxProtocolError("The sandbox sent fewer files than it was asked for.")
