"""Files of a sandbox: read, written, edited, listed, searched, watched, packed."""

from collections.abc import AsyncIterable, Sequence

from actors.sandbox.door.entries import (
    Bytes,
    Changes,
    Entry,
    Match,
    Reading,
    Stream,
    Uploading,
    changes_stream,
    entries_stream,
    entry_from,
    matches_stream,
)
from actors.sandbox.door.exchange import ask
from actors.sandbox.door.fields import integer
from actors.sandbox.door.lines import Lines
from serve_app.core.errors import BodyTooLargeError

LISTED = 10_000
_MOST_SCANNED = 2**40
_FOUND = 1000


class FileCalls:
    """Paths that are not absolute start at the workspace. What is a stream here is an async context manager."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    # --- contents ---

    def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> Reading:
        """A file's bytes, in pieces; its size and times from the start."""
        return Reading(self._lines, path, offset, limit)

    async def read_bytes(self, path: str, *, max_bytes: int, offset: int = 0) -> bytes:
        """The whole file, or all from `offset`. Raises `BodyTooLargeError` when that is more than `max_bytes`."""
        pieces: list[bytes] = []
        left = max_bytes
        async with self.read(path, offset=offset, limit=max_bytes + 1) as reading:
            async for piece in reading:
                left -= len(piece)
                if left < 0:
                    raise BodyTooLargeError(
                        f"The file is longer than {max_bytes} bytes. Read it in parts.", max_bytes=max_bytes
                    )
                pieces.append(piece)
        return b"".join(pieces)

    async def write(
        self,
        path: str,
        data: bytes | AsyncIterable[bytes],
        *,
        mode: int | None = None,
        make_parents: bool = True,
        exclusive: bool = False,
        append: bool = False,
    ) -> int:
        """The whole new content, or with `append` more of it; returns the size. All or nothing unless it appends.

        Raises:
            ConflictError: `exclusive`, and it is there already.
            SandboxFullError: it does not fit.
        """
        request = {
            "op": "write",
            "path": path,
            "mode": mode,
            "make_parents": make_parents or None,
            "exclusive": exclusive or None,
            "append": append or None,
        }
        async with Uploading(self._lines, request) as uploading:
            if isinstance(data, bytes):
                await uploading.send(data)
            else:
                async for piece in data:
                    await uploading.send(piece)
            return integer(await uploading.finish(), "size")

    async def edit(self, path: str, old: str, new: str, *, replace_all: bool = False) -> int:
        """Replace exact text; returns how many times. Raises `EditConflictError`, `NotTextError`."""
        fields = await ask(
            self._lines, {"op": "edit", "path": path, "old": old, "new": new, "all": replace_all or None}
        )
        return integer(fields, "replaced")

    # --- names ---

    def list(self, path: str = ".", *, depth: int = 1, hidden: bool = True, limit: int = LISTED) -> Stream[Entry]:
        """At most `limit` entries; `cut` tells whether there were more. Links are not followed."""
        request = {"op": "list", "path": path, "depth": depth, "hidden": hidden, "limit": limit}
        return entries_stream(self._lines, request, limit)

    async def stat(self, path: str) -> Entry:
        return entry_from(await ask(self._lines, {"op": "stat", "path": path}))

    async def move(self, source: str, target: str, *, replace: bool = False) -> None:
        await ask(self._lines, {"op": "move", "from": source, "to": target, "replace": replace or None})

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        await ask(self._lines, {"op": "delete", "path": path, "recursive": recursive or None})

    async def mkdir(self, path: str) -> None:
        await ask(self._lines, {"op": "mkdir", "path": path})

    # --- many at once ---

    def tar(self, path: str = ".") -> Bytes:
        """An uncompressed pax archive."""
        return Bytes(self._lines, {"op": "tar", "path": path})

    def untarring(self, path: str = ".", *, keeps_outward_links: bool = False) -> Uploading:
        """An archive that is sent piece by piece. Links that lead out of `path` are refused, or made but never followed."""
        return Uploading(self._lines, {"op": "untar", "path": path, "outward_links": keeps_outward_links or None})

    async def untar(self, data: AsyncIterable[bytes], path: str = ".") -> int:
        """Unpack an archive below `path`; returns the number of files. Raises `SandboxPathError` for a hostile one."""
        async with self.untarring(path) as uploading:
            async for piece in data:
                await uploading.send(piece)
            return integer(await uploading.finish(), "files")

    def watch(self, path: str = ".") -> Stream[Changes]:
        """What changes below `path`, until it is left."""
        return changes_stream(self._lines, {"op": "watch", "path": path})

    def search(self, pattern: str, path: str = ".", *, glob: str | None = None, limit: int = _FOUND) -> Stream[Match]:
        """Lines that match a regular expression, at most `limit`."""
        request = {"op": "search", "path": path, "pattern": pattern, "glob": glob, "limit": limit}
        return matches_stream(self._lines, request, limit)

    def scan(self, path: str, *, exclude: Sequence[str] = (), most: int = _MOST_SCANNED) -> Stream[Entry]:
        """Everything below `path`, with what tells that a file is still the same."""
        return entries_stream(self._lines, {"op": "scan", "path": path, "exclude": list(exclude)}, most)

    def pack(self, paths: Sequence[str]) -> Bytes:
        """The files' contents, each behind its size, as the protocol has it."""
        return Bytes(self._lines, {"op": "pack", "paths": list(paths)})
