"""What a sandbox tells about files, as streams: entries of folders, matches of a search, changes."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Generic, Literal, NamedTuple, TypeVar

from actors.sandbox.door.exchange import Exchange
from actors.sandbox.door.fields import (
    MOST_PATH_CHARS,
    Fields,
    checked_path,
    integer,
    maybe_integer,
    maybe_text,
    objects,
    path,
    text,
    texts,
    truth,
)
from actors.sandbox.door.lines import Lines
from actors.sandbox.door.refusals import words
from actors.sandbox.door.wire import DATA, MAX_JSON_BYTES, RESULT

_MOST_AT_ONCE = 20_000
_MOST_LINE_CHARS = 10_000
_LEAST_TIME = -(2**63)

Kind = Literal["file", "directory", "link", "other"]
_KINDS: dict[object, Kind] = {"file": "file", "directory": "directory", "link": "link", "other": "other"}
T = TypeVar("T")


class Entry(NamedTuple):
    """One name in the file system. `mode` is its permission bits. `path` and `target` are the sandbox's words, and may
    have surrogate escapes for bytes that are no UTF-8. `inode` and `ctime_ns` are there in a scan."""

    path: str
    kind: Kind
    size: int
    mtime_ns: int
    mode: int
    target: str | None = None
    inode: int | None = None
    ctime_ns: int | None = None


class Match(NamedTuple):
    """A line that a search found."""

    path: str
    line: int
    text: str


class Changes(NamedTuple):
    """Paths that changed; `cut`: there were more than could be told."""

    paths: tuple[str, ...]
    cut: bool


def entry_from(fields: Fields) -> Entry:
    kind = _KINDS.get(fields.get("kind"))
    target = maybe_text(fields, "target", MOST_PATH_CHARS)
    return Entry(
        checked_path(fields.get("path")),
        kind or "other",
        integer(fields, "size"),
        integer(fields, "mtime_ns", _LEAST_TIME),
        integer(fields, "mode", 0, 0o177777) & 0o7777,
        # Empty: it was replaced while it was looked at.
        target if target is None or target == "" else checked_path(target),
        maybe_integer(fields, "inode", 0, 2**64 - 1),
        maybe_integer(fields, "ctime_ns", _LEAST_TIME),
    )


class Stream(Exchange, Generic[T]):
    """An async context manager to iterate to its end; then `cut` tells whether there was more."""

    cut = False

    def __init__(
        self,
        lines: Lines,
        request: Mapping[str, object],
        event: str,
        items: Callable[[Fields], list[T]],
        most: int | None = None,
    ) -> None:
        super().__init__(lines, request)
        self._left = most
        self._event = event
        self._items = items
        self._ready: list[T] = []

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if not await self._more():
                raise StopAsyncIteration
        return self._ready.pop()

    async def batch(self) -> list[T]:
        """What came in the next event, in its order; empty at the end. Not to be mixed with iteration."""
        while await self._more():
            if self._ready:
                taken, self._ready = self._ready[::-1], []
                return taken
        return []

    async def _more(self) -> bool:
        if self.fields is not None:
            return False
        kind, payload = await self.next()
        if kind == RESULT and self.fields is not None:
            self.cut = truth(self.fields, "cut", default=False)
            return False
        self._ready = self._items(self.expect_event(kind, payload, self._event))[::-1]
        if self._left is not None:
            self._left -= len(self._ready)
            if self._left < 0:
                raise self.disorder()
        return True


def entries_stream(lines: Lines, request: Mapping[str, object], most: int) -> Stream[Entry]:
    def items(fields: Fields) -> list[Entry]:
        return [entry_from(one) for one in objects(fields, "entries", _MOST_AT_ONCE)]

    return Stream(lines, request, "entries", items, most)


def matches_stream(lines: Lines, request: Mapping[str, object], most: int) -> Stream[Match]:
    def items(fields: Fields) -> list[Match]:
        return [
            Match(path(one), integer(one, "line"), words(text(one, "text", MAX_JSON_BYTES), _MOST_LINE_CHARS))
            for one in objects(fields, "matches", _MOST_AT_ONCE)
        ]

    return Stream(lines, request, "matches", items, most)


def changes_stream(lines: Lines, request: Mapping[str, object]) -> Stream[Changes]:
    def items(fields: Fields) -> list[Changes]:
        paths = tuple(checked_path(one) for one in texts(fields, "paths", _MOST_AT_ONCE))
        return [Changes(paths, truth(fields, "cut", default=False))]

    stream = Stream(lines, request, "changed", items)
    stream.timeout_s = None
    return stream


class Bytes(Exchange):
    """A stream of bytes to its end: an archive, packed files."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.fields is not None:
            raise StopAsyncIteration
        kind, payload = await self.next()
        if kind == RESULT:
            raise StopAsyncIteration
        if kind != DATA:
            raise self.disorder()
        return payload


class Reading(Bytes):
    """A file that is read. `size`, `mtime_ns` and `mode` are there from the start; it may grow or shrink under way."""

    size = 0
    mtime_ns = 0
    mode = 0

    def __init__(self, lines: Lines, path: str, offset: int, limit: int | None) -> None:
        super().__init__(lines, {"op": "read", "path": path, "offset": offset or None, "limit": limit})
        self._bytes_left = limit

    async def __anext__(self) -> bytes:
        piece = await super().__anext__()
        self.count(piece)
        return piece

    async def open(self, *, turns_raw: bool = False) -> None:
        await super().open(turns_raw=turns_raw)
        try:
            fields = await self.event("file")
            self.size = integer(fields, "size")
            self.mtime_ns = integer(fields, "mtime_ns", _LEAST_TIME)
            self.mode = integer(fields, "mode", 0, 0o177777) & 0o7777
        except BaseException:
            self.close()
            raise


class Uploading(Exchange):
    """An operation that takes `DATA` … `END`: `send` as often as needed, then `finish` for its result."""

    async def send(self, data: bytes) -> None:
        """Raises what the sandbox refused it with, when it did so under way."""
        await self.upload(data, self.timeout_s)
        if self.is_over:
            await self._refused()

    async def finish(self) -> Fields:
        if self.is_over:
            await self._refused()
        self.end_upload()
        return await self.conclude()

    async def _refused(self) -> None:
        await self.conclude()
        raise self.disorder()
