"""The object store port, against the local disk and a real S3 server (SeaweedFS)."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.core.errors import NotFoundError, UnavailableError
from serve_app.core.stores.objects.base import ObjectStore
from serve_app.core.stores.objects.disk import DiskObjectStore
from serve_app.core.stores.objects.s3 import S3ObjectStore
from tests.seaweed import free_port


@pytest.fixture(params=["disk", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    made: ObjectStore
    if request.param == "disk":
        made = DiskObjectStore(tmp_path / "objects")
    else:
        made = S3ObjectStore(
            "objects",
            endpoint_url=request.getfixturevalue("seaweedfs"),
            access_key_id="test",
            secret_access_key="testsecret",
            prefix=secrets.token_hex(6),
        )
    yield made
    await made.close()


async def _read(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.stream(key, start, end)])


async def test_what_was_put_can_be_read_whole_and_in_ranges(store: ObjectStore) -> None:
    data = secrets.token_bytes(700_000)
    await store.put("a/b/c", data)
    assert await store.get("a/b/c") == data
    assert await store.size("a/b/c") == len(data)
    assert await _read(store, "a/b/c") == data
    assert await _read(store, "a/b/c", 10, 20) == data[10:20]
    assert await _read(store, "a/b/c", 699_990) == data[699_990:]
    assert await _read(store, "a/b/c", 5, 5) == b""


async def test_an_empty_object_exists(store: ObjectStore) -> None:
    await store.put("empty", b"")
    assert await store.get("empty") == b""
    assert await store.size("empty") == 0


async def test_a_second_put_replaces_the_first(store: ObjectStore) -> None:
    await store.put("k", b"one")
    await store.put("k", b"second")
    assert await store.get("k") == b"second"


async def test_what_is_not_there_is_told_so(store: ObjectStore) -> None:
    assert await store.size("missing") is None
    with pytest.raises(NotFoundError):
        await store.get("missing")
    with pytest.raises(NotFoundError):
        await _read(store, "missing")
    await store.delete("missing")


async def test_deleted_objects_are_gone(store: ObjectStore) -> None:
    await store.put("k", b"x")
    await store.delete("k")
    assert await store.size("k") is None


async def test_keys_are_listed_in_order_by_prefix(store: ObjectStore) -> None:
    for key in ("x/2", "x/1", "x/10", "y/1"):
        await store.put(key, b"x")
    assert [key async for key in store.keys("x/")] == ["x/1", "x/10", "x/2"]


@pytest.mark.parametrize("key", ["../up", "a/../b", "/abs", "a//b", "", "a/.hidden", "a\x00b", "a b", "ä", "x" * 600])
async def test_keys_that_could_leave_their_place_are_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="not an object key"):
        await store.put(key, b"x")


async def test_many_at_once(store: ObjectStore) -> None:
    await asyncio.gather(*(store.put(f"many/{n}", b"%d" % n) for n in range(50)))
    assert await asyncio.gather(*(store.get(f"many/{n}") for n in range(50))) == [b"%d" % n for n in range(50)]


async def test_a_store_out_of_reach_can_be_tried_again(tmp_path: Path) -> None:
    away = S3ObjectStore(
        "objects", endpoint_url=f"http://127.0.0.1:{free_port()}", access_key_id="a", secret_access_key="b"
    )
    with pytest.raises(UnavailableError) as caught:
        await away.get("k")
    assert caught.value.retryable
    await away.close()


async def test_files_on_disk_are_their_owners_alone_and_nothing_is_left_aside(tmp_path: Path) -> None:
    store = DiskObjectStore(tmp_path / "objects")
    await store.put("a/b", b"x")
    found = list((tmp_path / "objects").rglob("*"))
    assert {path.name for path in found} == {"a", "b"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in found)
