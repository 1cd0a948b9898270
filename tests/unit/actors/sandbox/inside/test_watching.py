"""Changes are told as they happen, coalesced, and in no way through links."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from actors.sandbox.inside import watching
from tests.unit.actors.sandbox.inside.peer import CONTROL, EVENT, RESULT, Peer, RunningSupervisor


@pytest.fixture
def work(supervisor: RunningSupervisor) -> Path:
    return supervisor.roots["work"]


def begin(peer: Peer, path: str = ".") -> None:
    """Returns when changes are seen: what changes before is not told."""
    peer.request("watch", path=path)
    peer.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        peer.receive()
    peer.socket.settimeout(20)


def changes(peer: Peer, wanted: set[str]) -> set[str]:
    found: set[str] = set()
    while not wanted <= found:
        kind, event = peer.receive()
        assert kind == EVENT, event
        found |= set(event["paths"])
    return found


def test_changes_are_told(peer: Peer, work: Path) -> None:
    (work / "old").mkdir()
    (work / "old/file").touch()
    begin(peer)
    (work / "old/file").write_text("1")
    (work / "new/deep").mkdir(parents=True)
    (work / "new/deep/file").touch()
    (work / "link").symlink_to("/etc")
    assert changes(peer, {"old/file", "new", "new/deep", "new/deep/file", "link"})
    (work / "new/deep/file").write_text("2")
    assert changes(peer, {"new/deep/file"}) == {"new/deep/file"}
    (work / "new").rename(work / "moved")
    changes(peer, {"new", "moved"})
    (work / "moved/deep/file").unlink()
    assert "moved/deep/file" in changes(peer, {"moved/deep/file"})
    peer.send(CONTROL, {"do": "cancel"})
    assert peer.receive() == (RESULT, {})
    assert peer.do("ping").code is None


def test_many_changes_are_few_events(peer: Peer, work: Path) -> None:
    begin(peer)
    started = time.monotonic()
    for number in range(3000):
        (work / f"{number}{'x' * 100}").touch()
    (work / "last").touch()
    events: list[dict[str, Any]] = []
    while not events or ("last" not in events[-1]["paths"] and not events[-1].get("cut")):
        events.append(peer.receive()[1])
    assert len(events) <= 10 * (time.monotonic() - started) + 2
    assert all(len(event["paths"]) <= 1000 for event in events)


def test_the_folder_itself_goes(peer: Peer, work: Path) -> None:
    (work / "top").mkdir()
    begin(peer, "top")
    (work / "top").rmdir()
    frames = peer.until_end()
    assert frames[-1][1]["code"] == "not_found"


def test_looking_finds_the_same(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/old").touch()
    top = os.open(tmp_path, os.O_RDONLY)
    looking = watching._Looking(top)
    looking._looks_at = 0
    (tmp_path / "dir/old").unlink()
    (tmp_path / "dir/new").touch()
    found = watching._Changes()
    looking.take(found)
    event = found.take()
    os.close(top)
    assert isinstance(event["paths"], list)
    assert set(event["paths"]) == {"dir/old", "dir/new"}
