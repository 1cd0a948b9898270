"""Bringing a snapshot back: one archive for each root, every byte of it verified before it is sent."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import NamedTuple, Protocol

from actors.sandbox.door.entries import Uploading
from actors.sandbox.snapshots.archive import END, header, padding
from actors.sandbox.snapshots.keys import Keys
from actors.sandbox.snapshots.manifest import Manifest, records_of
from actors.sandbox.snapshots.packs import PackReader
from actors.sandbox.snapshots.patience import Patience
from actors.sandbox.snapshots.records import ROOTS, Chunk, Record
from serve_app.core.errors import CorruptedError
from serve_app.core.stores.objects.base import ObjectStore

_GROUP_BYTES = 2 * 1024 * 1024
_GROUP_PARTS = 2048
_GROUP_PACKS = 2


class Target(Protocol):
    """The part of a sandbox's client that a restore needs."""

    def untarring(self, path: str = ".", *, keeps_outward_links: bool = False) -> Uploading: ...


class _Part(NamedTuple):
    """Some bytes of the archive: as they are, or a chunk of a file."""

    data: bytes
    chunk: Chunk | None = None


class Restore:
    """One restore. `close` it whatever happens; when it failed, the target holds some part of the files."""

    def __init__(self, store: ObjectStore, keys: Keys, manifest: Manifest) -> None:
        self._store = store
        self._keys = keys
        self._manifest = manifest
        self._packs = PackReader(store, keys, manifest.packs)

    async def give(self, target: Target) -> None:
        """Write everything into an empty workspace.

        Raises:
            CorruptedError, NotFoundError: the store does not have what the manifest promises.
            SandboxFullError: it does not fit.
            TimedOutError: the sandbox keeps the restore waiting.
        """
        patience = Patience()
        patience.grow(files=self._manifest.files, size_bytes=self._manifest.size_bytes)
        async with patience:
            await self._give(target)

    async def close(self) -> None:
        await self._packs.close()

    async def _give(self, target: Target) -> None:
        root = None
        async with AsyncExitStack() as stack, aclosing(self._groups()) as groups:
            uploading: Uploading | None = None
            async for group_root, archive in groups:
                if group_root != root:
                    await _finish(uploading)
                    await stack.aclose()
                    root = group_root
                    uploading = await stack.enter_async_context(target.untarring(ROOTS[root], keeps_outward_links=True))
                assert uploading is not None  # noqa: S101 - entered with the first group
                await uploading.send(archive)
            await _finish(uploading)

    async def _groups(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """The archives in pieces, each with its root. One is being made while the one before is sent."""
        making: tuple[str, asyncio.Task[bytes]] | None = None
        try:
            async for root, parts in self._parts():
                done, making = making, (root, asyncio.create_task(self._archive(parts)))
                if done:
                    yield done[0], await done[1]
            if making:
                yield making[0], await making[1]
        finally:
            if making:
                making[1].cancel()
                await asyncio.gather(making[1], return_exceptions=True)

    async def _parts(self) -> AsyncGenerator[tuple[str, list[_Part]], None]:
        root, parts, size, packs = "", list[_Part](), 0, set[str]()
        async with aclosing(records_of(self._store, self._keys, self._manifest)) as records:
            async for record in records:
                record_root = record.path.partition("/")[0]
                for part in _parts_of(record):
                    pack = {part.chunk.pack} if part.chunk else set[str]()
                    is_full = size >= _GROUP_BYTES or len(parts) >= _GROUP_PARTS or len(packs | pack) > _GROUP_PACKS
                    if parts and (is_full or record_root != root):
                        yield root, parts
                        parts, size, packs = [], 0, set()
                    root = record_root
                    parts.append(part)
                    size += part.chunk.size if part.chunk else len(part.data)
                    packs |= pack
        if parts:
            yield root, parts

    async def _archive(self, parts: list[_Part]) -> bytes:
        names = dict.fromkeys(part.chunk.pack for part in parts if part.chunk)
        for name in names:
            self._packs.want(name)
        packs = {name: await self._packs.get(name) for name in names}
        return await asyncio.to_thread(_joined, parts, packs)


def _parts_of(record: Record) -> list[_Part]:
    parts = [_Part(header(record)), *(_Part(b"", chunk) for chunk in record.chunks)]
    if fill := padding(record.size):
        parts.append(_Part(bytes(fill)))
    return parts


def _joined(parts: list[_Part], packs: dict[str, bytes]) -> bytes:
    out: list[bytes | memoryview] = []
    for part in parts:
        if part.chunk is None:
            out.append(part.data)
            continue
        _, pack, offset, size = part.chunk
        data = memoryview(packs[pack])[offset : offset + size]
        if len(data) != size or hashlib.sha256(data).digest() != part.chunk.digest:
            raise CorruptedError("A chunk of a file does not match its digest.")
        out.append(data)
    return b"".join(out)


async def _finish(uploading: Uploading | None) -> None:
    if uploading:
        await uploading.send(END)
        await uploading.finish()
