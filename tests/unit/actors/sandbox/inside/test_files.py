"""Single files and listings: paths that never lead out, writes that are whole or not at all, edits that are exact."""

import os
import threading
from pathlib import Path

import pytest

from tests.unit.actors.sandbox.inside.peer import DATA, Peer, RunningSupervisor, eventually
from tests.unit.actors.sandbox.inside.uploads import items, upload


@pytest.fixture
def work(supervisor: RunningSupervisor) -> Path:
    return supervisor.roots["work"]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".aether-part")]


def test_what_is_written_is_read(peer: Peer, work: Path) -> None:
    assert upload(peer, "write", b"hello", path="a/b.txt", make_parents=True, mode=0o600).result == {"size": 5}
    assert (work / "a/b.txt").stat().st_mode & 0o777 == 0o600
    answer = peer.do("read", path="/work/a/b.txt", offset=1, limit=3)
    assert (answer.out, answer.events[0]["size"], answer.events[0]["mode"]) == (b"ell", 5, 0o600)


def test_large_files_come_whole(peer: Peer, work: Path) -> None:
    data = os.urandom(1 << 20) * 5 + b"rest"
    assert upload(peer, "write", data, path="/tmp/large").result == {"size": len(data)}
    assert peer.do("read", path="/tmp/large").out == data


def test_a_write_keeps_the_mode_and_replaces_whole(peer: Peer, work: Path) -> None:
    (work / "run.sh").write_text("old")
    (work / "run.sh").chmod(0o755)
    (work / "link").symlink_to("run.sh")
    assert upload(peer, "write", b"new", path="link").code is None
    assert ((work / "run.sh").read_text(), (work / "run.sh").stat().st_mode & 0o777) == ("new", 0o755)
    assert (work / "link").is_symlink()


def test_a_broken_connection_changes_nothing(supervisor: RunningSupervisor, work: Path) -> None:
    (work / "a").write_text("old")
    with supervisor.connect() as peer:
        peer.request("write", path="a")
        peer.send(DATA, b"half")
        assert eventually(lambda: bool(leftovers(work)))
    assert eventually(lambda: not leftovers(work))
    assert (work / "a").read_text() == "old"


def test_exclusive_and_append(peer: Peer, work: Path) -> None:
    assert upload(peer, "write", b"1", path="a", exclusive=True).code is None
    assert upload(peer, "write", b"2", path="a", exclusive=True).code == "exists"
    (work / "link").symlink_to("missing")
    assert upload(peer, "write", b"2", path="link", exclusive=True).code == "exists"
    assert upload(peer, "write", b"23", path="a", append=True).result == {"size": 3}
    assert ((work / "a").read_text(), leftovers(work)) == ("123", [])


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../etc/passwd",
        "/work/../etc/passwd",
        "/",
        "/home",
        "absolute",
        "relative",
        "below/passwd",
        "chain",
        "loop",
        "/proc/self/environ",
        "a\0b",
        "x" * 20_000,
        "y" * 300,
        "",
        "\ud800",
    ],
)
@pytest.mark.parametrize("op", ["read", "write", "edit", "list", "mkdir", "tar"])
def test_no_path_leads_out(peer: Peer, work: Path, op: str, path: str) -> None:
    (work / "absolute").symlink_to("/etc/passwd")
    (work / "relative").symlink_to("../" * 20 + "etc/passwd")
    (work / "below").symlink_to("/etc")
    (work / "chain").symlink_to("absolute")
    (work / "loop").symlink_to("loop")
    more = {"old": "root", "new": "x"} if op == "edit" else {}
    answer = upload(peer, op, b"x", path=path, **more) if op == "write" else peer.do(op, path=path, **more)
    assert answer.code in {"bad_path", "bad_request"}, answer.result


def test_links_and_dots_that_stay_inside_work(peer: Peer, supervisor: RunningSupervisor, work: Path) -> None:
    (work / "a/b").mkdir(parents=True)
    (work / "a/file").write_text("here")
    (work / "to_b").symlink_to("/work/a/b")
    (supervisor.roots["tmp"] / "out").symlink_to("../work/to_b")
    for path in ("to_b/../file", "/tmp/out/../file", "/tmp/../work/a/./b/..//file"):
        assert peer.do("read", path=path).out == b"here", path


def test_no_race_leads_out(peer: Peer, supervisor: RunningSupervisor, work: Path) -> None:
    """A folder that becomes a link to the outside, again and again, while files are written through it."""
    outside = supervisor.folder / "outside"
    outside.mkdir()
    (work / "at").mkdir()
    (work / "other").symlink_to("../outside")
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            (work / "at").rename(work / "third")
            (work / "other").rename(work / "at")
            (work / "third").rename(work / "other")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        codes = {upload(peer, "write", b"x", path="at/file").code for _ in range(300)}
    finally:
        is_over.set()
        swapping.join()
    assert None in codes
    assert "bad_path" in codes
    assert not list(outside.iterdir())


def test_what_is_no_plain_file_is_not_opened(peer: Peer, work: Path) -> None:
    os.mkfifo(work / "fifo")
    (work / "folder").mkdir()
    for path, code in (("fifo", "bad_path"), ("folder", "is_a_directory"), ("missing", "not_found")):
        assert peer.do("read", path=path).code == code
        assert peer.do("edit", path=path, old="a", new="b").code == code
    assert upload(peer, "write", b"", path="fifo").code == "bad_path"
    assert upload(peer, "write", b"", path="fifo", append=True).code == "bad_path"
    assert upload(peer, "write", b"", path="folder").code == "is_a_directory"
    assert upload(peer, "write", b"", path="missing/file").code == "not_found"


def test_edits_are_exact(peer: Peer, work: Path) -> None:
    file = work / "a"
    file.write_text("aaa\r\nünï")
    file.chmod(0o640)
    assert peer.do("edit", path="a", old="zzz", new="").code == "edit_conflict"
    assert peer.do("edit", path="a", old="aa", new="b").code == "edit_conflict"
    assert peer.do("edit", path="a", old="a", new="b", all=True).result == {"replaced": 3}
    assert peer.do("edit", path="a", old="ü", new="u").result == {"replaced": 1}
    assert (file.read_bytes().decode(), file.stat().st_mode & 0o777) == ("bbb\r\nunï", 0o640)
    file.write_bytes(b"\xff\xfe")
    assert peer.do("edit", path="a", old="x", new="").code == "not_text"
    assert peer.do("edit", path="a", old="", new="").code == "bad_request"


def test_edits_at_one_time_lose_nothing(supervisor: RunningSupervisor, work: Path) -> None:
    (work / "a").write_text("".join(f"[{number}]" for number in range(100)))

    def edit(numbers: range) -> None:
        with supervisor.connect() as peer:
            for number in numbers:
                assert peer.do("edit", path="a", old=f"[{number}]", new="*").result == {"replaced": 1}

    threads = [threading.Thread(target=edit, args=(range(start, 100, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (work / "a").read_text() == "*" * 100


def test_move_delete_mkdir_stat(peer: Peer, work: Path) -> None:
    assert peer.do("mkdir", path="a/b/c").code is None
    assert peer.do("mkdir", path="a/b/c").code is None
    (work / "file").write_text("x")
    assert peer.do("mkdir", path="file").code == "exists"
    assert peer.do("move", **{"from": "file", "to": "a/b/file"}).code is None
    (work / "file").write_text("y")
    assert peer.do("move", **{"from": "file", "to": "a/b/file"}).code == "exists"
    assert peer.do("move", **{"from": "file", "to": "a/b/file"}, replace=True).code is None
    assert (work / "a/b/file").read_text() == "y"
    assert peer.do("move", **{"from": "a", "to": "a/b/a"}).code == "bad_path"
    assert peer.do("stat", path="a/b/file").result["kind"] == "file"
    assert peer.do("delete", path="a").code == "exists"
    assert peer.do("delete", path="a/b/c").code is None
    assert peer.do("delete", path="a", recursive=True).code is None
    assert peer.do("delete", path="a", recursive=True).code == "not_found"
    assert peer.do("delete", path="/work", recursive=True).code == "bad_path"
    assert peer.do("move", **{"from": "/work", "to": "/tmp/x"}).code == "bad_path"


def test_a_link_is_deleted_and_not_what_it_leads_to(peer: Peer, supervisor: RunningSupervisor, work: Path) -> None:
    outside = supervisor.folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    (work / "tree").mkdir()
    (work / "tree/link").symlink_to(outside)
    assert peer.do("delete", path="tree", recursive=True).code is None
    assert ((outside / "file").read_text(), list(work.iterdir())) == ("stays", [])


def test_deep_trees_are_listed_and_deleted(peer: Peer, work: Path) -> None:
    """Deeper than a path can be long, and than descriptors would last."""
    top = os.open(work, os.O_RDONLY)
    folder = os.dup(top)
    for number in range(1500):
        os.mkdir("d" * 20, dir_fd=folder)
        if number % 500 == 0:
            os.mkdir("locked", 0o000, dir_fd=folder)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    os.close(top)
    answer = peer.do("list", path=".", depth=1000)
    # With names as long as the host takes them.
    assert (len(items(answer, "entries")), answer.result) == (196, {"cut": True})
    assert peer.do("delete", path="d" * 20, recursive=True).code is None
    assert [path.name for path in work.iterdir()] == ["locked"]


def test_listing(peer: Peer, work: Path) -> None:
    (work / ".hidden").mkdir()
    (work / ".hidden/file").write_text("")
    (work / "dir").mkdir()
    (work / "dir/file").write_text("12345")
    (work / "link").symlink_to("/etc")
    os.close(os.open(os.fsencode(work) + b"/n\xff\n", os.O_CREAT))
    entries = {entry["path"]: entry for entry in items(peer.do("list", path=".", depth=2, hidden=False), "entries")}
    assert set(entries) == {"dir", "dir/file", "link", "n\udcff\n"}
    assert (entries["dir/file"]["size"], entries["dir"]["kind"], entries["link"]["target"]) == (5, "directory", "/etc")
    assert peer.do("read", path="n\udcff\n").code is None
    cut = peer.do("list", path=".", depth=2, limit=3)
    assert (len(items(cut, "entries")), cut.result) == (3, {"cut": True})
    assert len(items(peer.do("list", path="."), "entries")) == 4


def test_long_listings_come_in_batches(peer: Peer, work: Path) -> None:
    for number in range(1500):
        (work / f"{number}{'é' * 100}").touch()
    answer = peer.do("scan", path=".", exclude=["nothing"])
    entries = items(answer, "entries")
    assert len(entries) == 1500
    assert len(answer.events) > 1
    assert {"inode", "ctime_ns"} <= set(entries[0])


def test_scan_leaves_out(peer: Peer, work: Path) -> None:
    for path in ("src/__pycache__/x", "cache/x", "deep/cache/x"):
        (work / path).parent.mkdir(parents=True)
        (work / path).touch()
    (work / ".0123.aether-part").touch()
    found = {
        entry["path"] for entry in items(peer.do("scan", path=".", exclude=["__pycache__", "deep/cache"]), "entries")
    }
    assert found == {"src", "cache", "cache/x", "deep"}


def test_no_descriptor_is_left_open(supervisor: RunningSupervisor, peer: Peer, work: Path) -> None:
    (work / "a").write_text("text")
    (work / "link").symlink_to("/etc/passwd")

    def everything() -> None:
        for path in ("a", "link", "missing", "a/b", "/work", "/home/agent/../..", "link/../a"):
            for op in ("read", "list", "scan", "stat", "mkdir", "delete", "tar", "search"):
                peer.do(op, path=path, pattern="(")
            upload(peer, "write", b"text", path=path)
            upload(peer, "untar", b"x" * 512, path=path)

    everything()
    before = supervisor.open_files()
    everything()
    assert supervisor.open_files() == before
