"""Taking a snapshot: what changed since the parent is read and stored, all else is told by reference."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from actors.sandbox.door.entries import Bytes, Entry, Stream
from actors.sandbox.snapshots.keys import Keys
from actors.sandbox.snapshots.manifest import MOST_FILES, Manifest, PackRef, records_of
from actors.sandbox.snapshots.packs import PACK_BYTES, PackWriter
from actors.sandbox.snapshots.pages import PageWriter
from actors.sandbox.snapshots.patience import Patience
from actors.sandbox.snapshots.reading import Allowance, chunks_of
from actors.sandbox.snapshots.records import CHUNK_BYTES, ROOTS, Chunk, Identity, Record, is_safe, order_of
from serve_app.core.domain.ids import SnapshotId
from serve_app.core.errors import AetherError, CorruptedError, NoSuchFileError, SandboxProtocolError
from serve_app.core.stores.objects.base import ObjectStore

_WINDOW = 2000
_WANTED = 1000
_WANTED_CHARS = 30_000
_FRESH_NS = 2_000_000_000
"""A file that changed so shortly before the scan may change again within one tick of the file system's clock."""
_LEAST_LIVE = 0.25
_SMALL_BYTES = 1024 * 1024
_MOST_SMALL = 32
_CHECKS = 16


class Source(Protocol):
    """The part of a sandbox's client that a capture needs."""

    def scan(self, path: str, *, exclude: Sequence[str] = (), most: int = MOST_FILES) -> Stream[Entry]: ...

    def pack(self, paths: Sequence[str]) -> Bytes: ...


@dataclass(frozen=True)
class Captured:
    """A new manifest, or the parent's when nothing changed. `stored_bytes` is what it added to the store."""

    manifest: str
    files: int
    size_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Parent:
    digest: str
    manifest: Manifest


class Capture:
    """One capture. Use it once, and `close` it whatever happens."""

    def __init__(
        self,
        store: ObjectStore,
        keys: Keys,
        capture: SnapshotId,
        parent: Parent | None,
        *,
        now_ns: int,
        most_bytes: int,
        exclude: Sequence[str],
        restored_ns: int | None = None,
    ) -> None:
        """`restored_ns`: the sandbox was filled with the parent until then, and nothing else ran in it before."""
        self._store = store
        self._keys = keys
        self._capture = capture
        self._parent = parent
        self._fresh_since_ns = now_ns - _FRESH_NS
        self._allowance = Allowance(most_bytes)
        self._exclude = exclude
        self._restored_ns = restored_ns
        self._touched: set[int] = set()
        """Folders, by the hash of their path: there may be half a million, with names as long as names can be. Two that
        share one are read once too often."""
        self._patience = Patience()
        self._packs = PackWriter(store, keys, capture)
        self._pages = PageWriter(store, keys, capture, parent.manifest.pages if parent else ())
        self._wasteful = _wasteful(parent.manifest.packs) if parent else frozenset()

    async def take(self, source: Source) -> Captured:
        """Read the workspace and store it; the manifest is written last.

        Raises:
            SandboxFullError: there is more than a snapshot may have.
            CorruptedError: something of the parent is missing in the store.
            TimedOutError: the sandbox keeps the capture waiting, by however little at a time.
            SandboxLostError, SandboxProtocolError, UnavailableError: nothing was kept.
        """
        old = _Old(records_of(self._store, self._keys, self._parent.manifest) if self._parent else None)
        async with self._patience:
            for root, path in ROOTS.items():
                # Too many files are found here, and are no fault of the sandbox's; twice as many cannot be honest.
                async with source.scan(path, exclude=self._exclude, most=2 * MOST_FILES) as scan:
                    await self._walk(source, root, scan, old)
            await self._packs.finish()
            await self._pages.finish()
            return await self._finish()

    async def close(self) -> None:
        await self._packs.close()

    async def discard(self) -> None:
        """Remove what a capture that broke off has stored: nobody else can know of it. What cannot be removed now is
        left for the collector."""
        keys = [self._keys.pack(name) for name in self._packs.begun]
        for key in [*keys, *(self._keys.page(name) for name in self._pages.begun)]:
            with suppress(AetherError):
                await self._store.delete(key)

    async def _walk(self, source: Source, root: str, scan: Stream[Entry], old: "_Old") -> None:
        window = _Window()
        last = None
        try:
            batch = await scan.batch()
        except NoSuchFileError:
            # A root that was removed has nothing in it.
            return
        while batch:
            for entry in batch:
                path = f"{root}/{entry.path}"
                order = order_of(path)
                if not is_safe(path) or (last is not None and order <= last):
                    raise SandboxProtocolError("The sandbox told names that cannot be, or not in their order.")
                last = order
                self._patience.grow(files=1)
                self._look_at(window, path, entry, await old.at(path))
                if window.is_full:
                    await self._settle(source, window)
                    window = _Window()
            batch = await scan.batch()
        await self._settle(source, window)

    def _look_at(self, window: "_Window", path: str, entry: Entry, before: Record | None) -> None:
        match entry.kind:
            case "directory":
                if self._restored_ns is not None and self._is_touched(path, entry):
                    self._touched.add(hash(path))
                window.add(Record("directory", path, entry.mode, entry.mtime_ns))
            case "link" if entry.target:
                window.add(Record("link", path, entry.mode, entry.mtime_ns, target=entry.target))
            case "file":
                if before is not None and before.kind == "file" and self._is_kept(before):
                    if self._is_same(before, entry):
                        identity = self._identity(entry)
                        window.add(Record("file", path, entry.mode, entry.mtime_ns, identity, before.chunks))
                        return
                    window.known.update((chunk.digest, chunk) for chunk in before.chunks)
                window.want(Record("file", path, entry.mode, entry.mtime_ns, self._identity(entry)))
            case _:
                # Sockets, pipes and devices are nothing without the process that made them.
                return

    def _is_same(self, before: Record, entry: Entry) -> bool:
        if before.mtime_ns != entry.mtime_ns or before.size != entry.size:
            return False
        if before.identity is not None and before.identity == (entry.inode, entry.ctime_ns):
            return True
        return self._restored_ns is not None and not self._is_touched(before.path, entry)

    def _is_touched(self, path: str, entry: Entry) -> bool:
        """Whether it may be another one than was restored. What is in a folder that changed may have come with it."""
        return (
            entry.ctime_ns is None
            or self._restored_ns is None
            or entry.ctime_ns > self._restored_ns
            or hash(path.rpartition("/")[0]) in self._touched
        )

    def _is_kept(self, before: Record) -> bool:
        return not self._wasteful or not any(chunk.pack in self._wasteful for chunk in before.chunks)

    def _identity(self, entry: Entry) -> Identity | None:
        if entry.inode is None or entry.ctime_ns is None or entry.ctime_ns >= self._fresh_since_ns:
            return None
        return Identity(entry.inode, entry.ctime_ns)

    async def _settle(self, source: Source, window: "_Window") -> None:
        """Read what the window wants, and write its records."""
        if window.wanted:
            chunks = await self._read(source, window)
            for number, index in enumerate(window.wanted):
                found, record = chunks[number], window.records[index]
                if record is not None:
                    window.records[index] = None if found is None else _with_chunks(record, found)
        for record in window.records:
            if record is not None:
                await self._pages.add(record)

    async def _read(self, source: Source, window: "_Window") -> list[list[Chunk] | None]:
        """The chunks of each wanted file; None for one that is gone."""
        found: list[list[Chunk] | None] = [[] for _ in window.wanted]
        numbers: list[int] = []
        pieces: list[bytes] = []
        gathered = 0

        async def place() -> None:
            for number, chunk in zip(numbers, await self._packs.place(pieces, window.known), strict=True):
                chunks = found[number]
                if chunks is not None:
                    chunks.append(chunk)
            numbers.clear()
            pieces.clear()

        async with source.pack(window.paths) as stream:
            async for number, piece in chunks_of(stream, len(window.wanted), self._allowance):
                if piece is None:
                    found[number] = None
                    continue
                self._patience.grow(size_bytes=len(piece))
                numbers.append(number)
                pieces.append(piece)
                gathered += len(piece)
                if gathered >= CHUNK_BYTES:
                    await place()
                    gathered = 0
        await place()
        return found

    async def _finish(self) -> Captured:
        packs = await self._pack_refs()
        manifest = Manifest(self._capture, tuple(self._pages.pages), packs, self._pages.files, self._pages.size_bytes)
        if self._parent and self._parent.manifest.pages == manifest.pages:
            return Captured(self._parent.digest, manifest.files, manifest.size_bytes, 0)
        await self._check_inherited(manifest)
        encoded = manifest.encode()
        digest = hashlib.sha256(encoded).hexdigest()
        await self._store.put(self._keys.manifest(digest), encoded)
        stored = sum(ref.stored_bytes for ref in self._packs.refs.values()) + self._pages.stored_bytes + len(encoded)
        return Captured(digest, manifest.files, manifest.size_bytes, stored)

    async def _pack_refs(self) -> tuple[PackRef, ...]:
        known = {ref.name: ref for ref in self._parent.manifest.packs} if self._parent else {}
        known |= self._packs.refs
        live = self._pages.live_bytes
        if missing := live.keys() - known.keys():
            raise CorruptedError("A snapshot names packs that are not in its manifest.", count=len(missing))
        return tuple(known[name]._replace(live_bytes=size) for name, size in sorted(live.items()))

    async def _check_inherited(self, manifest: Manifest) -> None:
        """What comes from the parent must still be there: nobody looks for it again until a restore."""
        keys = [self._keys.page(page.name) for page in manifest.pages if not page.name.startswith(self._capture)]
        keys += [self._keys.pack(pack.name) for pack in manifest.packs if not pack.name.startswith(self._capture)]
        for at in range(0, len(keys), _CHECKS):
            sizes = await asyncio.gather(*(self._store.size(key) for key in keys[at : at + _CHECKS]))
            if None in sizes:
                raise CorruptedError("Something of the snapshot before this one is missing in the store.")


class _Window:
    """Some records in order, those of files that are to be read among them."""

    def __init__(self) -> None:
        self.records: list[Record | None] = []
        self.wanted: list[int] = []
        self.paths: list[str] = []
        self.known: dict[bytes, Chunk] = {}
        self._chars = 0

    @property
    def is_full(self) -> bool:
        return len(self.records) >= _WINDOW or len(self.wanted) >= _WANTED or self._chars >= _WANTED_CHARS

    def add(self, record: Record) -> None:
        self.records.append(record)

    def want(self, record: Record) -> None:
        root, _, path = record.path.partition("/")
        self.wanted.append(len(self.records))
        self.records.append(record)
        self.paths.append(f"{ROOTS[root]}/{path}")
        self._chars += len(record.path) + 16


class _Old:
    """The parent's records as a stream that goes along with the scan."""

    def __init__(self, records: AsyncIterator[Record] | None) -> None:
        self._records = records
        self._next: Record | None = None

    async def at(self, path: str) -> Record | None:
        """The record of this path. Paths are asked for in their order."""
        order = order_of(path)
        while self._records is not None:
            if self._next is None:
                self._next = await anext(self._records, None)
                if self._next is None:
                    self._records = None
                    return None
            if self._next.path == path:
                return self._next
            if order_of(self._next.path) > order:
                return None
            self._next = None
        return None


def _with_chunks(record: Record, chunks: list[Chunk]) -> Record:
    return Record("file", record.path, record.mode, record.mtime_ns, record.identity, tuple(chunks))


def _wasteful(packs: Collection[PackRef]) -> frozenset[str]:
    """Packs whose rest is to be read and stored anew: mostly dead, or one of many small ones."""
    dead = {pack.name for pack in packs if pack.live_bytes < _LEAST_LIVE * pack.raw_bytes}
    small = {pack.name for pack in packs if pack.raw_bytes < _SMALL_BYTES}
    return frozenset(dead | small if len(small) > _MOST_SMALL else dead)


assert CHUNK_BYTES <= PACK_BYTES  # noqa: S101 - a fact about two constants
