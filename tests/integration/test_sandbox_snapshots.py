"""Snapshots of workspaces of real supervisors: whole, incremental, verified, forked, collected."""

import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.door.entries import Bytes
from actors.sandbox.snapshots.workspaces import StoredWorkspaces
from serve_app.core.clock import SystemClock
from serve_app.core.domain.ids import new_org_id, new_sandbox_id
from serve_app.core.errors import CorruptedError, NotFoundError, SandboxFullError, UnavailableError
from serve_app.core.stores.objects.disk import DiskObjectStore
from tests.unit.actors.sandbox.inside.peer import TOKEN, RunningSupervisor

ORG, SANDBOX = new_org_id(), new_sandbox_id()
MOST_BYTES = 64 * 1024 * 1024
_OLD_NS = 1_600_000_000_123_456_789


class LaterClock(SystemClock):
    """So much later that nothing counts as changed just now, and old captures as old."""

    def __init__(self, later_s: float) -> None:
        self._later = timedelta(seconds=later_s)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._later


class CountingStore(DiskObjectStore):
    """Counts puts, and refuses them from `fails_after` on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.put_keys: list[str] = []
        self.fails_after: int | None = None

    async def put(self, key: str, data: bytes) -> None:
        if self.fails_after is not None and len(self.put_keys) >= self.fails_after:
            raise UnavailableError("The disk is full.")
        self.put_keys.append(key)
        await super().put(key, data)


class Sandbox:
    """A supervisor with a workspace, and the client that reaches it."""

    def __init__(self, supervisor: RunningSupervisor) -> None:
        self.supervisor = supervisor
        self.work = supervisor.roots["work"]
        self.home = supervisor.roots["home"]
        self.client = SandboxClient(dial_unix(supervisor.door), TOKEN, answer_timeout_s=20)


@pytest.fixture
async def start() -> AsyncIterator[Callable[[], Sandbox]]:
    started: list[Sandbox] = []

    def start() -> Sandbox:
        started.append(Sandbox(RunningSupervisor()))
        return started[-1]

    yield start
    for sandbox in started:
        await sandbox.client.close()
        if (sandbox.work / "locked").exists():
            (sandbox.work / "locked").chmod(0o755)
        sandbox.supervisor.close()


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


@pytest.fixture
def workspaces(store: CountingStore) -> StoredWorkspaces:
    return StoredWorkspaces(store, LaterClock(10), most_bytes=MOST_BYTES)


def fill(sandbox: Sandbox) -> None:
    """One of everything a workspace may have."""
    work, home = sandbox.work, sandbox.home
    for number in range(300):
        path = work / f"d{number % 9}" / f"e{number % 4}" / f"file {number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"print({number})\n" * 50)
        os.utime(path, ns=(_OLD_NS + number, _OLD_NS + number))
    (work / "empty").write_bytes(b"")
    (work / "big").write_bytes(random.Random(1).randbytes(9_000_000))
    (work / "run.sh").write_text("#!/bin/sh\n")
    (work / "run.sh").chmod(0o755)
    (work / "ünï çode").write_text("é")
    Path(os.fsdecode(os.fsencode(work) + b"/\xff\xfe")).write_bytes(b"no utf-8")
    (work / ("a" * 200)).mkdir()
    (work / ("a" * 200) / ("b" * 200)).write_text("long")
    (work / "to file").symlink_to("run.sh")
    (work / "to nowhere").symlink_to("/nowhere/at/all")
    (work / "out").symlink_to("../../etc/passwd")
    (work / "void").mkdir(mode=0o700)
    (work / "locked").mkdir()
    (work / "locked" / "inner").write_text("x")
    (work / "locked").chmod(0o555)
    os.mkfifo(work / "pipe")
    (home / ".profile").write_text("export A=1\n")
    (home / ".cache").mkdir()
    (home / ".cache" / "wheel").write_text("again")


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below `folder` that a snapshot keeps."""
    found: dict[str, tuple[object, ...]] = {}
    for above, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(above) / name
            status = path.lstat()
            shown = str(path.relative_to(folder))
            if path.is_symlink():
                found[shown] = ("link", str(path.readlink()))
            elif path.is_dir():
                found[shown] = ("folder", status.st_mode, status.st_mtime_ns)
            elif path.is_file():
                found[shown] = ("file", status.st_mode, status.st_mtime_ns, path.read_bytes())
    return found


async def test_a_workspace_comes_back_as_it_was(
    start: Callable[[], Sandbox], workspaces: StoredWorkspaces, store: CountingStore
) -> None:
    one, other = start(), start()
    fill(one)
    snapshot = await workspaces.capture(one.client, ORG, SANDBOX, None)
    assert store.put_keys[-1].endswith(f"manifests/{snapshot.manifest}")
    await workspaces.restore(other.client, snapshot)
    assert tree(other.work) == tree(one.work)
    assert (other.home / ".profile").read_text() == "export A=1\n"
    assert not (other.home / ".cache").exists()
    assert snapshot.files == len(tree(one.work)) + 1
    assert snapshot.stored_bytes < snapshot.size_bytes + 50_000
    assert not one.client.is_busy
    assert not other.client.is_busy


async def test_only_what_changed_is_stored_again(
    start: Callable[[], Sandbox], workspaces: StoredWorkspaces, store: CountingStore
) -> None:
    one, other = start(), start()
    fill(one)
    first = await workspaces.capture(one.client, ORG, SANDBOX, None)
    again = await workspaces.capture(one.client, ORG, SANDBOX, first)
    assert (again.manifest, again.stored_bytes, again.parent_id) == (first.manifest, 0, first.id)

    (one.work / "d1" / "new").write_text("new")
    (one.work / "d2" / "e2" / "file 2.py").write_text("changed")
    (one.work / "empty").unlink()
    (one.work / "run.sh").chmod(0o700)
    with (one.work / "big").open("ab") as big:
        big.write(b"tail")
    # Of the big file only the last chunk is new; the others are known by their digests.
    second = await workspaces.capture(one.client, ORG, SANDBOX, first)
    assert 0 < second.stored_bytes < 2_000_000
    await workspaces.restore(other.client, second)
    assert tree(other.work) == tree(one.work)


async def test_the_same_size_and_time_do_not_hide_a_change(
    start: Callable[[], Sandbox], workspaces: StoredWorkspaces
) -> None:
    one, other = start(), start()
    path = one.work / "x"
    path.write_text("one")
    os.utime(path, ns=(_OLD_NS, _OLD_NS))
    first = await workspaces.capture(one.client, ORG, SANDBOX, None)
    time.sleep(0.02)
    path.write_text("two")
    os.utime(path, ns=(_OLD_NS, _OLD_NS))
    second = await workspaces.capture(one.client, ORG, SANDBOX, first)
    await workspaces.restore(other.client, second)
    assert (other.work / "x").read_text() == "two"


async def test_what_changed_just_now_is_read_again(start: Callable[[], Sandbox], store: CountingStore) -> None:
    """Within one tick of the file system's clock a second change leaves no trace."""
    workspaces = StoredWorkspaces(store, SystemClock(), most_bytes=MOST_BYTES)
    one = start()
    (one.work / "x").write_text("one")
    first = await workspaces.capture(one.client, ORG, SANDBOX, None)
    (one.work / "y").write_text("same")
    second = await workspaces.capture(one.client, ORG, SANDBOX, first)
    assert second.stored_bytes > 0
    assert second.files == 2


async def test_a_fork_shares_what_is_stored(
    start: Callable[[], Sandbox], workspaces: StoredWorkspaces, store: CountingStore
) -> None:
    one, other = start(), start()
    fill(one)
    first = await workspaces.capture(one.client, ORG, SANDBOX, None)
    await workspaces.restore(other.client, first)
    (other.work / "mine").write_text("of the fork")
    puts = len(store.put_keys)
    forked = await workspaces.capture(other.client, ORG, new_sandbox_id(), first)
    assert forked.stored_bytes < 200_000
    assert sum("/packs/" in key for key in store.put_keys[puts:]) == 1
    third = start()
    await workspaces.restore(third.client, forked)
    assert tree(third.work) == tree(other.work)


class CountingClient(SandboxClient):
    """Counts the files it was asked to read."""

    def __init__(self, supervisor: RunningSupervisor) -> None:
        super().__init__(dial_unix(supervisor.door), TOKEN, answer_timeout_s=20)
        self.packed: list[str] = []

    def pack(self, paths: Sequence[str]) -> Bytes:
        self.packed += paths
        return super().pack(paths)


async def test_what_was_restored_is_not_read_again(start: Callable[[], Sandbox], store: CountingStore) -> None:
    """Not even when nothing but contents tells that folders changed their places."""
    workspaces = StoredWorkspaces(store, SystemClock(), most_bytes=MOST_BYTES)
    one, other, third = start(), start(), start()
    fill(one)
    for folder, text in (("swap-a", "one"), ("swap-b", "two"), ("kept", "abc")):
        (one.work / folder / "inner").mkdir(parents=True)
        path = one.work / folder / "inner" / "file"
        path.write_text(text)
        os.utime(path, ns=(_OLD_NS, _OLD_NS))
    first = await workspaces.capture(one.client, ORG, SANDBOX, None)
    client = CountingClient(other.supervisor)
    await workspaces.restore(client, first)
    (other.work / "swap-a").rename(other.work / "x")
    (other.work / "swap-b").rename(other.work / "swap-a")
    (other.work / "x").rename(other.work / "swap-b")
    (other.work / "run.sh").write_text("#!/bin/bad")
    os.utime(other.work / "run.sh", ns=((one.work / "run.sh").stat().st_mtime_ns,) * 2)
    second = await workspaces.capture(client, ORG, SANDBOX, first)
    assert sorted(client.packed) == ["/work/run.sh", "/work/swap-a/inner/file", "/work/swap-b/inner/file"]
    await workspaces.restore(third.client, second)
    assert tree(third.work) == tree(other.work)
    client.packed.clear()
    (other.work / "run.sh").write_text("again")
    workspaces = StoredWorkspaces(store, LaterClock(10), most_bytes=MOST_BYTES)
    await workspaces.capture(client, ORG, SANDBOX, second)
    assert len(client.packed) < 320
    await client.close()


async def test_nothing_is_kept_of_a_capture_that_fails_but_what_can_be_collected(
    start: Callable[[], Sandbox], store: CountingStore
) -> None:
    workspaces = StoredWorkspaces(store, LaterClock(10), most_bytes=MOST_BYTES)
    one = start()
    fill(one)
    first = await workspaces.capture(one.client, ORG, SANDBOX, None)
    (one.work / "more").write_bytes(random.Random(2).randbytes(20_000_000))
    before = await _holding(store)
    for more in range(4):
        store.fails_after = len(store.put_keys) + more
        with pytest.raises(UnavailableError):
            await workspaces.capture(one.client, ORG, SANDBOX, first)
    assert await _holding(store) == before, "whoever breaks off again and again must not fill the store"
    store.fails_after = None
    kept = await workspaces.collect(ORG, [first.manifest])
    assert kept.removed == 0, "a capture may still be under way"
    later = StoredWorkspaces(store, LaterClock(2 * 86_400), most_bytes=MOST_BYTES)
    collected = await later.collect(ORG, [first.manifest])
    assert collected.removed == 3, "the marks of those that had begun"
    other = start()
    await workspaces.restore(other.client, first)
    (one.work / "more").unlink()
    assert tree(other.work).keys() == tree(one.work).keys()
    assert (await later.collect(ORG, [])).kept == 0
    assert [key async for key in store.keys("orgs/")] == []


async def _holding(store: CountingStore) -> list[str]:
    """What holds files: the marks of captures that have begun stay, for the collector."""
    return [key async for key in store.keys("orgs/") if "/begun/" not in key]


async def test_damage_is_found_before_it_is_restored(
    start: Callable[[], Sandbox], workspaces: StoredWorkspaces, store: CountingStore, tmp_path: Path
) -> None:
    one = start()
    fill(one)
    snapshot = await workspaces.capture(one.client, ORG, SANDBOX, None)
    for kind in ("manifests", "pages", "packs"):
        key = next(key for key in store.put_keys if f"/{kind}/" in key)
        path = tmp_path / "store" / key
        whole = path.read_bytes()
        for damaged in (whole[:-1], whole[:100] + b"\0" + whole[101:], None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            with pytest.raises(CorruptedError):
                await workspaces.restore(start().client, snapshot)
            path.write_bytes(whole)
        path.unlink()
        # What is missing of the parent is read anew from the workspace, which still has it all.
        (one.work / f"because of {kind}").write_text("x")
        mended = await workspaces.capture(one.client, ORG, SANDBOX, snapshot)
        other = start()
        await workspaces.restore(other.client, mended)
        assert tree(other.work) == tree(one.work)
        path.write_bytes(whole)


async def test_packs_that_are_mostly_dead_are_given_up(
    start: Callable[[], Sandbox], workspaces: StoredWorkspaces, store: CountingStore
) -> None:
    one = start()
    for number in range(10):
        (one.work / f"f{number}").write_bytes(random.Random(number).randbytes(100_000))
    snapshot = await workspaces.capture(one.client, ORG, SANDBOX, None)
    for number in range(1, 10):
        (one.work / f"f{number}").unlink()
    (one.work / "z").write_text("z")
    snapshot = await workspaces.capture(one.client, ORG, SANDBOX, snapshot)
    (one.work / "z").write_text("zz")
    snapshot = await workspaces.capture(one.client, ORG, SANDBOX, snapshot)
    later = StoredWorkspaces(store, LaterClock(2 * 86_400), most_bytes=MOST_BYTES)
    await later.collect(ORG, [snapshot.manifest])
    left = [key async for key in store.keys("orgs/")]
    assert sum([await store.size(key) or 0 for key in left]) < 250_000
    other = start()
    await workspaces.restore(other.client, snapshot)
    assert tree(other.work) == tree(one.work)


async def test_a_hole_does_not_fill_the_store(start: Callable[[], Sandbox], workspaces: StoredWorkspaces) -> None:
    one = start()
    with (one.work / "hole").open("wb") as file:
        file.truncate(40_000_000)
    snapshot = await workspaces.capture(one.client, ORG, SANDBOX, None)
    assert snapshot.stored_bytes < 100_000
    with (one.work / "hole").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(SandboxFullError):
        await workspaces.capture(one.client, ORG, SANDBOX, None)


async def test_a_live_snapshot_that_cannot_be_read_stops_the_collector(
    start: Callable[[], Sandbox], store: CountingStore
) -> None:
    workspaces = StoredWorkspaces(store, LaterClock(2 * 86_400), most_bytes=MOST_BYTES)
    one = start()
    (one.work / "x").write_text("x")
    snapshot = await workspaces.capture(one.client, ORG, SANDBOX, None)
    before = [key async for key in store.keys("orgs/")]
    with pytest.raises(NotFoundError):
        await workspaces.collect(ORG, [snapshot.manifest, "a" * 64])
    assert [key async for key in store.keys("orgs/")] == before
