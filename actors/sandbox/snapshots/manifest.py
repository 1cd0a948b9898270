"""The manifest of a snapshot: which pages and packs it needs. Its digest is the snapshot's name."""

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from actors.sandbox.snapshots.keys import Keys, capture_of, is_digest
from actors.sandbox.snapshots.records import Record, decode_page, order_of
from serve_app.core.domain.ids import SnapshotId
from serve_app.core.errors import CorruptedError
from serve_app.core.stores.objects.base import ObjectStore

VERSION = 1
MOST_FILES = 500_000


class PageRef(NamedTuple):
    """`digest` is that of the stored bytes."""

    name: str
    digest: str


class PackRef(NamedTuple):
    """`raw_bytes` is its length unpacked, `live_bytes` how much of that this snapshot uses."""

    name: str
    digest: str
    stored_bytes: int
    raw_bytes: int
    live_bytes: int


@dataclass(frozen=True)
class Manifest:
    """`files` counts all records, `size_bytes` the bytes of plain files."""

    capture: SnapshotId
    pages: tuple[PageRef, ...]
    packs: tuple[PackRef, ...]
    files: int
    size_bytes: int

    def encode(self) -> bytes:
        fields = {
            "version": VERSION,
            "capture": self.capture,
            "pages": [list(page) for page in self.pages],
            "packs": [list(pack) for pack in self.packs],
            "files": self.files,
            "size_bytes": self.size_bytes,
        }
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def decode_manifest(encoded: bytes) -> Manifest:
    """Raises `CorruptedError`."""
    try:
        match orjson.loads(encoded):
            case {
                "version": 1,
                "capture": str(capture),
                "pages": list(pages),
                "packs": list(packs),
                "files": int(files),
                "size_bytes": int(size_bytes),
            } if capture_of(capture) and 0 <= files <= MOST_FILES and size_bytes >= 0:
                return Manifest(
                    SnapshotId(capture),
                    tuple(_page(page) for page in pages),
                    tuple(_pack(pack) for pack in packs),
                    files,
                    size_bytes,
                )
    except ValueError as exc:
        raise CorruptedError("The manifest of a snapshot cannot be read.") from exc
    raise CorruptedError("The manifest of a snapshot is not in a form this version can read.")


async def load_manifest(store: ObjectStore, keys: Keys, digest: str) -> Manifest:
    """Raises `NotFoundError`, `CorruptedError`."""
    encoded = await store.get(keys.manifest(digest))
    if hashlib.sha256(encoded).hexdigest() != digest:
        raise CorruptedError("The manifest of a snapshot does not match its digest.")
    return decode_manifest(encoded)


async def records_of(store: ObjectStore, keys: Keys, manifest: Manifest) -> AsyncGenerator[Record, None]:
    """All records, in order, each page verified. Raises `NotFoundError`, `CorruptedError`."""
    last = None
    for page in manifest.pages:
        stored = await store.get(keys.page(page.name))
        if hashlib.sha256(stored).hexdigest() != page.digest:
            raise CorruptedError("A page of a snapshot does not match its digest.")
        for record in decode_page(stored):
            order = order_of(record.path)
            if last is not None and order <= last:
                raise CorruptedError("The records of a snapshot are not in their order.")
            last = order
            yield record


def _page(value: object) -> PageRef:
    match value:
        case [str(name), str(digest)] if capture_of(name) and is_digest(digest):
            return PageRef(name, digest)
    raise ValueError


def _pack(value: object) -> PackRef:
    match value:
        case [str(name), str(digest), int(stored), int(raw), int(live)] if capture_of(name) and is_digest(digest):
            if min(stored, raw, live) >= 0:
                return PackRef(name, digest, stored, raw, live)
    raise ValueError
