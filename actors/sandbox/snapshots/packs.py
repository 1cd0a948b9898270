"""Packs: many chunks as one compressed object, written while a workspace is read, and read back one by one."""

import asyncio
import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from actors.sandbox.snapshots.keys import Keys
from actors.sandbox.snapshots.manifest import PackRef
from actors.sandbox.snapshots.records import Chunk
from serve_app.core.domain.ids import SnapshotId
from serve_app.core.errors import AetherError, CorruptedError
from serve_app.core.stores.objects.base import ObjectStore

PACK_BYTES = 8 * 1024 * 1024
_AT_ONCE = 2
_SAMPLE_BYTES = 256 * 1024
_WORTH = 0.95
_REMEMBERED = 50_000
_CACHE_BYTES = 24 * 1024 * 1024


class Sealed(NamedTuple):
    """A pack as it is stored. As long as its contents: it was not worth compressing."""

    data: bytes
    digest: str
    raw_bytes: int


def seal(raw: bytearray) -> Sealed:
    sample = raw[:_SAMPLE_BYTES]
    data = zlib.compress(raw, 1) if len(zlib.compress(sample, 1)) < _WORTH * len(sample) else b""
    if not 0 < len(data) < len(raw):
        data = bytes(raw)
    return Sealed(data, hashlib.sha256(data).hexdigest(), len(raw))


def unseal(stored: bytes, ref: PackRef) -> bytes:
    """Raises `CorruptedError`."""
    if len(stored) != ref.stored_bytes or hashlib.sha256(stored).hexdigest() != ref.digest:
        raise CorruptedError("A pack of a snapshot does not match its digest.")
    if ref.raw_bytes > PACK_BYTES:
        raise CorruptedError("A pack of a snapshot is longer than a pack may be.")
    if ref.stored_bytes == ref.raw_bytes:
        return stored
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(stored, ref.raw_bytes + 1)
    except zlib.error as exc:
        raise CorruptedError("A pack of a snapshot cannot be unpacked.") from exc
    if len(raw) != ref.raw_bytes or not inflater.eof:
        raise CorruptedError("A pack of a snapshot has another length than it should.")
    return raw


class PackWriter:
    """The packs of one capture. `close` it whatever happens."""

    def __init__(self, store: ObjectStore, keys: Keys, capture: SnapshotId) -> None:
        self.refs: dict[str, PackRef] = {}
        """What is stored, with `live_bytes` 0."""
        self._store = store
        self._keys = keys
        self._capture = capture
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._sealing: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._buffer = bytearray()
        self._count = 0
        self._known: dict[bytes, Chunk] = {}

    async def place(self, pieces: list[bytes], known: Mapping[bytes, Chunk]) -> list[Chunk]:
        """Where each piece lies from now on; what `known` or an earlier piece has already is not stored again.

        Raises:
            UnavailableError: the store refused an earlier pack.
        """
        digests = await asyncio.to_thread(_digests, pieces)
        chunks = []
        for piece, digest in zip(pieces, digests, strict=True):
            chunk = known.get(digest) or self._known.get(digest)
            if chunk is None or chunk.size != len(piece):
                if len(self._buffer) + len(piece) > PACK_BYTES:
                    await self._flush()
                chunk = Chunk(digest, f"{self._capture}/{self._count}", len(self._buffer), len(piece))
                self._buffer += piece
                if len(self._known) < _REMEMBERED:
                    self._known[digest] = chunk
            chunks.append(chunk)
        return chunks

    @property
    def begun(self) -> list[str]:
        """The names of all that are stored, or may be."""
        return [f"{self._capture}/{number}" for number in range(self._count)]

    async def finish(self) -> None:
        """All that was placed is stored."""
        await self._flush()
        await asyncio.gather(*self._sealing)
        self._raise_failure()

    async def close(self) -> None:
        # Not cancelled: what a thread writes would appear after it was discarded.
        await asyncio.gather(*self._sealing, return_exceptions=True)

    async def _flush(self) -> None:
        if not self._buffer:
            return
        await self._room.acquire()
        self._raise_failure()
        raw, self._buffer = self._buffer, bytearray()
        task = asyncio.create_task(self._store_pack(f"{self._capture}/{self._count}", raw))
        self._count += 1
        self._sealing.add(task)
        task.add_done_callback(self._sealing.discard)

    async def _store_pack(self, name: str, raw: bytearray) -> None:
        try:
            sealed = await asyncio.to_thread(seal, raw)
            await self._store.put(self._keys.pack(name), sealed.data)
            self.refs[name] = PackRef(name, sealed.digest, len(sealed.data), sealed.raw_bytes, 0)
        except AetherError as exc:
            self._failure = exc
        finally:
            self._room.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _digests(pieces: list[bytes]) -> list[bytes]:
    return [hashlib.sha256(piece).digest() for piece in pieces]


class PackReader:
    """The packs of one manifest, unpacked and verified; the latest are kept, and some fetched ahead."""

    def __init__(self, store: ObjectStore, keys: Keys, packs: tuple[PackRef, ...]) -> None:
        self._store = store
        self._keys = keys
        self._refs = {ref.name: ref for ref in packs}
        self._tasks: OrderedDict[str, asyncio.Task[bytes]] = OrderedDict()

    def want(self, name: str) -> None:
        """Begin to fetch it, unless that has begun."""
        if name in self._tasks:
            self._tasks.move_to_end(name)
            return
        ref = self._refs.get(name)
        if ref is None:
            raise CorruptedError("A snapshot names a pack that is not in its manifest.")
        held = ref.raw_bytes + sum(self._refs[one].raw_bytes for one in self._tasks)
        for oldest in list(self._tasks):
            if held <= _CACHE_BYTES:
                break
            if self._tasks[oldest].done():
                del self._tasks[oldest]
                held -= self._refs[oldest].raw_bytes
        self._tasks[name] = asyncio.create_task(self._fetch(ref))

    async def get(self, name: str) -> bytes:
        """Raises `NotFoundError`, `CorruptedError`, `UnavailableError`."""
        self.want(name)
        return await asyncio.shield(self._tasks[name])

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _fetch(self, ref: PackRef) -> bytes:
        stored = await self._store.get(self._keys.pack(ref.name))
        return await asyncio.to_thread(unseal, stored, ref)
