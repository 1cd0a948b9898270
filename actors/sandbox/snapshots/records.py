"""What a snapshot knows of each file, folder and link; and pages of them, as they are stored.

Records are in the order in which a scan tells them: folder by folder from the top, all names of a folder together. That
lets a new scan and an old snapshot be compared as two streams, whatever their length.
"""

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import orjson

from actors.sandbox.snapshots.keys import capture_of
from serve_app.core.errors import CorruptedError

CHUNK_BYTES = 4 * 1024 * 1024
MOST_PAGE_BYTES = 64 * 1024 * 1024
_LEAST_PAGE_RECORDS = 64
"""Names can be chosen so that each would end a page, and each page is an object in the store."""
_PAGE_RECORDS = 1024
_PAGE_BORDER = 256
_PAGE_CHUNKS = 4096
_MOST_PATH_BYTES = 8192
_MOST_NS = 2**63
ROOTS = {"home": "/home/agent", "work": "/work"}
"""First parts of the paths of records, in their order, and what they are in a sandbox."""

Order = tuple[tuple[bytes, ...], bytes]


class Chunk(NamedTuple):
    """A part of a file: its SHA-256, and where it lies in which pack."""

    digest: bytes
    pack: str
    offset: int
    size: int


class Identity(NamedTuple):
    """Besides size and time, what tells that a file is the one that was read before."""

    inode: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Record:
    """`path` begins with the name of a root. Chunks are a file's, the target a link's."""

    kind: Literal["file", "directory", "link"]
    path: str
    mode: int
    mtime_ns: int
    identity: Identity | None = None
    chunks: tuple[Chunk, ...] = ()
    target: str = ""

    @property
    def size(self) -> int:
        return sum(chunk.size for chunk in self.chunks)


def order_of(path: str) -> Order:
    *above, name = os.fsencode(path).split(b"/")
    return tuple(above), name


def ends_page(records: Sequence[Record]) -> bool:
    """Whether a page ends behind the last one. Where it does depends on names, so that a new file moves no borders."""
    return (
        (len(records) >= _LEAST_PAGE_RECORDS and zlib.crc32(os.fsencode(records[-1].path)) % _PAGE_BORDER == 0)
        or len(records) >= _PAGE_RECORDS
        or (len(records[-1].chunks) > 1 and sum(len(record.chunks) for record in records) > _PAGE_CHUNKS)
    )


def encode_page(records: Iterable[Record]) -> bytes:
    packs: dict[str, int] = {}
    rows: list[list[object]] = []
    for record in records:
        row: list[object] = [record.kind[0], record.path, record.mode, record.mtime_ns]
        if record.kind == "file":
            row.append(list(record.identity) if record.identity else None)
            row.append(
                [
                    [chunk.digest.hex(), packs.setdefault(chunk.pack, len(packs)), chunk.offset, chunk.size]
                    for chunk in record.chunks
                ]
            )
        elif record.kind == "link":
            row.append(record.target)
        rows.append(row)
    page = {"packs": list(packs), "records": rows}
    try:
        encoded = orjson.dumps(page)
    except TypeError:
        encoded = json.dumps(page, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    return zlib.compress(encoded, 1)


def decode_page(stored: bytes) -> list[Record]:
    """Raises `CorruptedError`: somebody who can write into the store must not get more than wrong files."""
    inflater = zlib.decompressobj()
    try:
        encoded = inflater.decompress(stored, MOST_PAGE_BYTES)
        if inflater.unconsumed_tail:
            raise ValueError
        page = json.loads(encoded) if b"\\ud" in encoded else orjson.loads(encoded)
        packs = page["packs"]
        if not all(isinstance(pack, str) and capture_of(pack) for pack in packs):
            raise ValueError
        return [_record(row, packs) for row in page["records"]]
    except (zlib.error, ValueError, TypeError, KeyError, IndexError, RecursionError) as exc:
        raise CorruptedError("A page of a snapshot cannot be read.") from exc


def _record(row: list[object], packs: list[str]) -> Record:
    letter, path, mode, mtime_ns, *rest = row
    if not isinstance(path, str) or type(mode) is not int or type(mtime_ns) is not int:
        raise TypeError
    if not is_safe(path) or not 0 <= mode <= 0o7777 or not -_MOST_NS <= mtime_ns < _MOST_NS:
        raise ValueError
    match letter, rest:
        case "d", []:
            return Record("directory", path, mode, mtime_ns)
        case "l", [str(target)] if target and "\0" not in target and len(target) <= _MOST_PATH_BYTES:
            return Record("link", path, mode, mtime_ns, target=target)
        case "f", [identity, list(chunks)]:
            return Record(
                "file", path, mode, mtime_ns, _identity(identity), tuple(_chunk(chunk, packs) for chunk in chunks)
            )
        case _:
            raise ValueError


def _identity(value: object) -> Identity | None:
    match value:
        case None:
            return None
        case [int(inode), int(ctime_ns)]:
            return Identity(inode, ctime_ns)
        case _:
            raise ValueError


def _chunk(value: object, packs: list[str]) -> Chunk:
    match value:
        case [str(digest), int(pack), int(offset), int(size)] if pack >= 0 and offset >= 0 and 0 < size <= CHUNK_BYTES:
            chunk = Chunk(bytes.fromhex(digest), packs[pack], offset, size)
            if len(chunk.digest) == 32:
                return chunk
    raise ValueError


def is_safe(path: str) -> bool:
    """Whether it leads from one of our roots down to somewhere, and nowhere else."""
    root, *names = path.split("/")
    return (
        root in ROOTS
        and bool(names)
        and len(path) <= _MOST_PATH_BYTES
        and "\0" not in path
        and not any(name in {"", ".", ".."} for name in names)
    )
