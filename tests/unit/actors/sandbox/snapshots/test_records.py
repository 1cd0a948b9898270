"""Pages, manifests, packs and archives as bytes: what goes in comes out, and nothing hostile is let through."""

import io
import json
import os
import tarfile
import zlib
from collections.abc import AsyncIterator

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.sandbox.snapshots.archive import END, header, padding
from actors.sandbox.snapshots.keys import Keys, begun_at_s, capture_of
from actors.sandbox.snapshots.manifest import Manifest, PackRef, PageRef, decode_manifest
from actors.sandbox.snapshots.packs import PACK_BYTES, seal, unseal
from actors.sandbox.snapshots.reading import Allowance, chunks_of
from actors.sandbox.snapshots.records import (
    CHUNK_BYTES,
    Chunk,
    Identity,
    Record,
    decode_page,
    encode_page,
    is_safe,
    order_of,
)
from serve_app.core.clock import SystemClock
from serve_app.core.domain.ids import OrgId, new_snapshot_id
from serve_app.core.errors import CorruptedError, SandboxFullError, SandboxProtocolError

CAPTURE = new_snapshot_id()
CHUNK = Chunk(bytes(range(32)), f"{CAPTURE}/3", 7, 12)
RECORDS = [
    Record("directory", "home/d", 0o755, -1),
    Record("file", f"work/{os.fsdecode(bytes([0xFF]))} é", 0o4755, 2**62, Identity(2**63, -5), (CHUNK, CHUNK)),
    Record("file", "work/empty", 0o600, 0),
    Record("link", "work/link", 0o777, 5, target="../../etc/passwd"),
]
MANIFEST = Manifest(
    CAPTURE, (PageRef(f"{CAPTURE}/0", "a" * 64),), (PackRef(f"{CAPTURE}/3", "b" * 64, 10, 19, 12),), 4, 24
)


def test_a_page_comes_back_as_it_was() -> None:
    assert decode_page(encode_page(RECORDS)) == RECORDS
    assert encode_page(RECORDS) == encode_page(list(RECORDS))


def test_a_manifest_comes_back_as_it_was() -> None:
    assert decode_manifest(MANIFEST.encode()) == MANIFEST


@pytest.mark.parametrize(
    "path",
    [
        "",
        "work",
        "work/",
        "work//a",
        "work/../home/a",
        "work/./a",
        "etc/passwd",
        "/work/a",
        "work/a\0b",
        "work/a/..",
        "work/" + "a" * 9000,
    ],
)
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    assert not is_safe(path)
    with pytest.raises(CorruptedError):
        decode_page(encode_page([Record("directory", path, 0o755, 0)]))


@pytest.mark.parametrize(
    "row",
    [
        ["x", "work/a", 0o644, 0],
        ["d", "work/a", -1, 0],
        ["d", "work/a", 0o644, "0"],
        ["d", "work/a", 0o644, 2**64],
        ["l", "work/a", 0o644, 0, ""],
        ["l", "work/a", 0o644, 0, "a\0"],
        ["f", "work/a", 0o644, 0, None, [["00", 0, 0, 1]]],
        ["f", "work/a", 0o644, 0, None, [["00" * 32, 5, 0, 1]]],
        ["f", "work/a", 0o644, 0, None, [["00" * 32, 0, -1, 1]]],
        ["f", "work/a", 0o644, 0, None, [["00" * 32, 0, 0, CHUNK_BYTES + 1]]],
        ["f", "work/a", 0o644, 0, [1], []],
        [],
        "d",
    ],
)
def test_rows_of_another_form_are_refused(row: object) -> None:
    page = {"packs": [f"{CAPTURE}/0"], "records": [row]}
    with pytest.raises(CorruptedError):
        decode_page(zlib.compress(json.dumps(page).encode()))


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"junk",
        zlib.compress(b"[]"),
        zlib.compress(b"[" * 100_000),
        zlib.compress(b'{"packs":["../../x"],"records":[]}'),
        zlib.compress(bytes(65 * 1024 * 1024)),
    ],
)
def test_pages_of_another_form_are_refused(stored: bytes) -> None:
    with pytest.raises(CorruptedError):
        decode_page(stored)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"capture": "x"},
        {"pages": [["x/0", "a" * 64]]},
        {"pages": [[f"{CAPTURE}/0", "a"]]},
        {"packs": [[f"{CAPTURE}/../..", "a" * 64, 1, 1, 1]]},
        {"packs": [[f"{CAPTURE}/0", "a" * 64, -1, 1, 1]]},
        {"files": 10**9},
    ],
)
def test_manifests_of_another_form_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CorruptedError):
        decode_manifest(orjson.dumps({**orjson.loads(MANIFEST.encode()), **change}))


def test_records_go_folder_by_folder() -> None:
    paths = ["work/a", "work/b", "work/b.txt", "work/a/z", "work/a/c/d", "work/b/a"]
    shuffled = [paths[number] for number in (3, 0, 5, 1, 4, 2)]
    assert sorted(shuffled, key=order_of) == paths


@given(st.binary(max_size=5000), st.booleans())
@settings(max_examples=50, deadline=None)
def test_packs_come_back_as_they_were(raw: bytes, repeats: bool) -> None:
    raw = raw * 20 if repeats else raw
    sealed = seal(bytearray(raw))
    ref = PackRef(f"{CAPTURE}/0", sealed.digest, len(sealed.data), len(raw), 0)
    assert unseal(sealed.data, ref) == raw


def test_packs_that_were_tampered_with_are_refused() -> None:
    sealed = seal(bytearray(b"ab" * 5000))
    ref = PackRef(f"{CAPTURE}/0", sealed.digest, len(sealed.data), 10_000, 0)
    bomb = seal(bytearray(bytes(PACK_BYTES)))
    for stored, claimed in [
        (sealed.data[:-1], ref),
        (sealed.data[:-1] + b"x", ref),
        (sealed.data, replace_ref(ref, raw_bytes=9_999)),
        (sealed.data, replace_ref(ref, raw_bytes=10_001)),
        (bomb.data, PackRef(ref.name, bomb.digest, len(bomb.data), 100, 0)),
        (bomb.data, PackRef(ref.name, bomb.digest, len(bomb.data), 2**40, 0)),
    ]:
        with pytest.raises(CorruptedError):
            unseal(stored, claimed)


def replace_ref(ref: PackRef, raw_bytes: int) -> PackRef:
    return ref._replace(raw_bytes=raw_bytes)


def test_python_unpacks_our_archives() -> None:
    long = "work/" + "/".join(["deep" * 10] * 5) + "/ünï"
    records = [
        *RECORDS,
        Record("file", long, 0o640, 1_700_000_000_123_456_789, chunks=(Chunk(bytes(32), CHUNK.pack, 0, 3),)),
        Record("link", "work/far", 0o777, -1_500_000_000, target="t" * 300),
    ]
    archive = b"".join(header(record) + bytes(record.size) + bytes(padding(record.size)) for record in records) + END
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8", errors="surrogateescape") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [record.path.partition("/")[2] for record in records]
    assert [member.size for member in members] == [record.size for record in records]
    assert [member.mode for member in members] == [record.mode for record in records]
    assert [member.linkname for member in members] == [record.target for record in records]
    assert members[-2].pax_headers["mtime"] == "1700000000.123456789"
    assert members[-1].pax_headers["mtime"] == "-1.500000000"


async def _stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("cut", [1, 7, 8, 100, 10**7])
async def test_packed_files_are_cut_into_chunks(cut: int) -> None:
    big = os.urandom(CHUNK_BYTES + 5) if cut > 8 else b"12345"
    sent = b"".join([len(big).to_bytes(8, "big"), big, b"\xff" * 8, bytes(8), (3).to_bytes(8, "big"), b"abc"])
    pieces = [sent[at : at + cut] for at in range(0, len(sent), cut)]
    found = [one async for one in chunks_of(_stream(*pieces), 4, Allowance(10**8))]
    expected = [(0, big[:CHUNK_BYTES]), (0, big[CHUNK_BYTES:])] if cut > 8 else [(0, big)]
    assert found == [*expected, (1, None), (3, b"abc")]


@pytest.mark.parametrize(
    ("sent", "files"),
    [(b"", 1), (bytes(8), 2), (bytes(16), 1), (bytes(9), 1), ((5).to_bytes(8, "big") + b"abc", 1)],
)
async def test_another_number_of_files_is_a_violation(sent: bytes, files: int) -> None:
    with pytest.raises(SandboxProtocolError):
        [one async for one in chunks_of(_stream(sent), files, Allowance(100))]


async def test_a_file_that_claims_to_be_endless_is_not_read() -> None:
    with pytest.raises(SandboxFullError):
        [one async for one in chunks_of(_stream((2**62).to_bytes(8, "big")), 1, Allowance(2**40))]


def test_names_tell_their_age() -> None:
    assert abs(begun_at_s(CAPTURE) - SystemClock().now().timestamp()) < 3600
    assert capture_of(f"{CAPTURE}/12") == CAPTURE
    for name in ("", "x", f"{CAPTURE}/", f"{CAPTURE}/x", f"{CAPTURE}/1/2", f"{CAPTURE}/-1", "ses_" + CAPTURE[4:]):
        assert capture_of(name) is None
    keys = Keys(OrgId("org_x"))
    assert keys.read(keys.page(f"{CAPTURE}/1")) == ("pages", f"{CAPTURE}/1")
