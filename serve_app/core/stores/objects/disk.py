"""The embedded default: objects as files below one folder, written aside, synced, then renamed."""

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from serve_app.core.errors import MisconfiguredError, NotFoundError, UnavailableError
from serve_app.core.stores.objects.base import PIECE_BYTES, checked_key

_ASIDE = ".writing-"


class DiskObjectStore:
    """Files readable by their owner alone. Blocking calls run in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def put(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, self._path(key), data)

    async def get(self, key: str) -> bytes:
        with _translate():
            return await asyncio.to_thread(self._path(key).read_bytes)

    async def stream(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        with _translate():
            file: BinaryIO = await asyncio.to_thread(self._path(key).open, "rb")
        try:
            file.seek(start)
            left = None if end is None else max(0, end - start)
            while left is None or left > 0:
                piece = await asyncio.to_thread(file.read, PIECE_BYTES if left is None else min(PIECE_BYTES, left))
                if not piece:
                    return
                if left is not None:
                    left -= len(piece)
                yield piece
        finally:
            file.close()

    async def size(self, key: str) -> int | None:
        try:
            with _translate():
                return (await asyncio.to_thread(self._path(key).stat)).st_size
        except NotFoundError:
            return None

    async def delete(self, key: str) -> None:
        with _translate():
            await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        found = await asyncio.to_thread(lambda: sorted(self._walk(prefix)))
        for key in found:
            yield key

    async def check(self) -> None:
        if not await asyncio.to_thread(os.access, self._root, os.R_OK | os.W_OK | os.X_OK):
            raise MisconfiguredError(f"The folder {self._root} cannot be read and written.")

    async def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*checked_key(key).split("/"))

    def _walk(self, prefix: str) -> Iterator[str]:
        for folder, _, names in os.walk(self._root):
            for name in names:
                key = (Path(folder) / name).relative_to(self._root).as_posix()
                if key.startswith(prefix) and not name.startswith(_ASIDE):
                    yield key

    @staticmethod
    def _put(path: Path, data: bytes) -> None:
        with _translate():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            aside = path.parent / f"{_ASIDE}{secrets.token_hex(8)}"
            try:
                descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                aside.rename(path)
                folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            except OSError:
                with suppress(OSError):
                    aside.unlink(missing_ok=True)
                raise


@contextmanager
def _translate() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
        raise NotFoundError("There is no such object.") from exc
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise UnavailableError("The disk is full. Free some space and try again.") from exc
        raise UnavailableError("The object store cannot be read or written right now.") from exc
