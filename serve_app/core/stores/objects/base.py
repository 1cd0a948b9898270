"""The object store port. Keys are `/`-separated, ASCII, made by us and never by a user."""

import re
from collections.abc import AsyncIterator
from typing import Protocol

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MAX_KEY_CHARS = 512


class ObjectStore(Protocol):
    """Bytes under a key. A put is all or nothing; what it acknowledged survives a crash."""

    async def put(self, key: str, data: bytes) -> None:
        """Store or replace. Raises `UnavailableError` when the store is full or out of reach."""
        ...

    async def get(self, key: str) -> bytes:
        """The whole object. Raises `NotFoundError`."""
        ...

    def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes `[start, end)` in pieces of at most 256 KiB. Raises `NotFoundError` before the first piece."""
        ...

    async def size(self, key: str) -> int | None:
        """Size in bytes, or None when there is no such object."""
        ...

    async def delete(self, key: str) -> None:
        """Remove; no error when it is not there."""
        ...

    def keys(self, prefix: str) -> AsyncIterator[str]:
        """Every key that starts with `prefix`, in order."""
        ...

    async def check(self) -> None:
        """Return when the store can be used.

        Raises:
            MisconfiguredError: it refuses us: a wrong name or key.
            UnavailableError: it cannot be reached now.
        """
        ...

    async def close(self) -> None: ...


PIECE_BYTES = 256 * 1024


def checked_key(key: str) -> str:
    """`key`, or ValueError: a key that could leave its folder is a bug of ours, not a user's mistake."""
    if len(key) > MAX_KEY_CHARS or not all(_SEGMENT.fullmatch(part) for part in key.split("/")):
        raise ValueError(f"not an object key: {key!r}")
    return key
