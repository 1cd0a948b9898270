"""Archives and packed files: what goes out comes back the same, and a hostile archive touches nothing outside."""

import io
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.actors.sandbox.inside.peer import Peer, RunningSupervisor
from tests.unit.actors.sandbox.inside.uploads import upload

GONE = b"\xff" * 8
Members = Callable[[tarfile.TarFile], None]


@pytest.fixture
def work(supervisor: RunningSupervisor) -> Path:
    return supervisor.roots["work"]


def archive(fill: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        fill(tar)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"", **more: object) -> Members:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, len(data)
        for field, value in more.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(data))

    return add


def together(*members: Members) -> Members:
    def fill(tar: tarfile.TarFile) -> None:
        for add in members:
            add(tar)

    return fill


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_there_and_back_again(peer: Peer, supervisor: RunningSupervisor, work: Path, form: int) -> None:
    long = "/".join(["n" * 90] * 4)
    fill = together(
        member("./dir", tarfile.DIRTYPE, mode=0o555, mtime=1000),
        member("dir/file", data=b"x" * 1000, mode=0o4751, mtime=2000),
        member("empty"),
        member("dir/up", tarfile.SYMTYPE, "../empty"),
        member("hard", tarfile.LNKTYPE, "dir/file"),
        member(f"{long}/file", data=b"long"),
        member("ünï\udcff", data=b"name"),
    )
    assert upload(peer, "untar", archive(fill, form), path=".").result == {"files": 6}
    file = (work / "dir/file").stat()
    assert (file.st_mode & 0o7777, file.st_mtime, file.st_nlink) == (0o751, 2000, 2)
    assert ((work / "dir").stat().st_mode & 0o777, (work / "dir").stat().st_mtime) == (0o555, 1000)
    assert (str((work / "dir/up").readlink()), (work / long / "file").read_bytes()) == ("../empty", b"long")

    os.utime(work / "empty", ns=(1, 1_234_567_890_123_456_789))
    os.utime(work / "hard", ns=(1, -1_500_000_000))
    os.mkfifo(work / "fifo")
    packed = peer.do("tar", path=".").out
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert "fifo" not in tar.getnames()
    (supervisor.roots["tmp"] / "copy").mkdir()
    assert upload(peer, "untar", packed, path="/tmp/copy").result == {"files": 6}
    copy = supervisor.roots["tmp"] / "copy"
    assert (copy / "empty").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (copy / "hard").stat().st_mtime_ns == -1_500_000_000
    assert (copy / "ünï\udcff").read_bytes() == b"name"


HOSTILE = {
    "absolute": member("/etc/evil", data=b"x"),
    "up": member("../evil", data=b"x"),
    "up inside": member("a/../../evil", data=b"x"),
    "through a link": together(member("l", tarfile.SYMTYPE, "."), member("l/../../evil", data=b"x")),
    "file through a link": together(member("l", tarfile.SYMTYPE, "sub"), member("l/evil", data=b"x")),
    "folder through a link": together(member("l", tarfile.SYMTYPE, "sub"), member("l", tarfile.DIRTYPE)),
    "link up": member("l", tarfile.SYMTYPE, "../outside"),
    "link absolute": member("l", tarfile.SYMTYPE, "/etc/passwd"),
    "link up inside": member("a/l", tarfile.SYMTYPE, "b/../../../outside"),
    "hard link up": member("h", tarfile.LNKTYPE, "../outside/file"),
    "hard link absolute": member("h", tarfile.LNKTYPE, "/etc/passwd"),
    "hard link through a link": together(member("l", tarfile.SYMTYPE, "x"), member("h", tarfile.LNKTYPE, "l/y")),
    "hard link to a link": together(member("l", tarfile.SYMTYPE, "x"), member("h", tarfile.LNKTYPE, "l")),
    "hard link to itself": member("h", tarfile.LNKTYPE, "h"),
    "fifo": member("f", tarfile.FIFOTYPE),
    "device": member("d", tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": member("d", tarfile.BLKTYPE, devmajor=1, devminor=3),
    "unknown kind": member("u", b"Z"),
    "name of a folder only": member(".", data=b"x"),
    "long name": member("/".join(["x" * 300] * 2), data=b"x"),
    "too deep": member("/".join(["x"] * 1200), data=b"x"),
    "sparse": member("s", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
    "size that is none": member("s", pax_headers={"size": "-5"}),
    "time that is none": member("s", pax_headers={"mtime": "nan"}),
    "header of megabytes": member("s", pax_headers={"comment": "x" * 300_000}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(peer: Peer, supervisor: RunningSupervisor, work: Path, name: str) -> None:
    outside = supervisor.folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("as it was")
    before = sorted(supervisor.folder.iterdir())
    (work / "to").mkdir()
    assert upload(peer, "untar", archive(HOSTILE[name]), path="to").code in {"bad_path", "not_found"}
    assert sorted(supervisor.folder.iterdir()) == before
    assert ((outside / "file").read_text(), names(outside), names(work)) == ("as it was", ["file"], ["to"])


def test_a_link_that_is_there_is_not_followed(peer: Peer, supervisor: RunningSupervisor, work: Path) -> None:
    outside = supervisor.folder / "outside"
    outside.mkdir()
    (work / "dir").symlink_to(outside)
    (work / "file").symlink_to(outside / "file")
    assert upload(peer, "untar", archive(member("dir/x", data=b"x")), path=".").code == "bad_path"
    assert upload(peer, "untar", archive(member("file", data=b"x")), path=".").code is None
    assert (names(outside), (work / "file").is_symlink()) == ([], False)


def test_links_that_lead_out_are_kept_when_asked_for(peer: Peer, work: Path) -> None:
    data = archive(member("python", tarfile.SYMTYPE, "/usr/bin/python3"))
    assert upload(peer, "untar", data, path=".", outward_links=True).code is None
    assert str((work / "python").readlink()) == "/usr/bin/python3"


@pytest.mark.parametrize("cut", [1, 511, 512, 700, 1024, 1500])
def test_an_archive_that_ends_early_or_is_none(peer: Peer, work: Path, cut: int) -> None:
    data = archive(member("file", data=b"x" * 1000))
    assert upload(peer, "untar", data[:cut], path=".").code == "bad_request"
    assert names(work) in ([], ["file"])
    assert upload(peer, "untar", os.urandom(cut).ljust(2048, b"\1"), path=".").code == "bad_path"
    assert peer.do("ping").code is None


def test_a_header_that_promises_more_than_memory(peer: Peer, work: Path) -> None:
    """The size is bounded before anything is kept for it."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**40
    assert upload(peer, "untar", info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512, path=".").code == "bad_path"


def test_pack(peer: Peer, supervisor: RunningSupervisor, work: Path) -> None:
    (work / "a").write_bytes(b"12345")
    (work / "dir").mkdir()
    (work / "large").write_bytes(os.urandom(700_000))
    (work / "link").symlink_to("a")
    packed = peer.do("pack", paths=["a", "/work/large", "link", "dir", "missing", "no/where", "/work/a"]).out
    large = (work / "large").read_bytes()
    parts = [struct.pack(">Q", 5), b"12345", struct.pack(">Q", 700_000), large, GONE, GONE, GONE, GONE]
    assert packed == b"".join([*parts, struct.pack(">Q", 5), b"12345"])
    assert peer.do("pack", paths=["/etc/passwd"]).code == "bad_path"
    assert peer.do("pack", paths=[]).out == b""
