"""Search finds lines, and no pattern and no file can stop the sandbox."""

import re
from pathlib import Path

import pytest

from actors.sandbox.inside import globs
from tests.unit.actors.sandbox.inside.peer import Peer, RunningSupervisor, eventually
from tests.unit.actors.sandbox.inside.uploads import items


@pytest.fixture
def work(supervisor: RunningSupervisor) -> Path:
    return supervisor.roots["work"]


def found(peer: Peer, pattern: str, **fields: object) -> list[tuple[str, int, str]]:
    answer = peer.do("search", **{"path": ".", "pattern": pattern, **fields})
    assert answer.code is None, answer.result
    return [(match["path"], match["line"], match["text"]) for match in items(answer, "matches")]


def test_lines_are_found(peer: Peer, work: Path) -> None:
    (work / "src").mkdir()
    (work / "src/a.py").write_text("import os\nfoo = 1\r\n\nfoo foo (x)\n")
    (work / "b.txt").write_text("no newline: FOO")
    (work / "binary").write_bytes(b"foo\0foo")
    (work / ".git").mkdir()
    (work / ".git/config").write_text("foo")
    (work / "link").symlink_to("/etc/passwd")
    lines = [("src/a.py", 2, "foo = 1"), ("src/a.py", 4, "foo foo (x)")]
    assert found(peer, "fo+") == lines
    assert found(peer, "foo", ignore_case=True) == [("b.txt", 1, "no newline: FOO"), *lines]
    assert found(peer, "(x)", literal=True) == lines[1:]
    assert found(peer, "^foo", glob="*.txt", ignore_case=True) == []
    assert found(peer, "foo", glob="src/**/*.{js,py}") == lines
    assert found(peer, "^$", path="src/a.py") == [(".", 3, "")]
    assert found(peer, "root") == []


def test_bounds(peer: Peer, work: Path) -> None:
    (work / "many").write_text("match\n" * 5000)
    (work / "long").write_text("x" * 100_000 + "needle" + "y" * 100_000)
    answer = peer.do("search", path=".", pattern="match", limit=3)
    assert (len(items(answer, "matches")), answer.result["cut"]) == (3, True)
    ((_, _, text),) = found(peer, "needle")
    assert "needle" in text
    assert len(text) <= 400
    assert len(found(peer, "match", limit=5000)) == 5000


def test_a_pattern_that_takes_for_ever_costs_its_file_only(peer: Peer, work: Path) -> None:
    (work / "a_trap").write_text("a" * 60 + "!")
    (work / "b_fine").write_text("aa")
    answer = peer.do("search", path=".", pattern="^(a+)+$")
    assert [match["path"] for match in items(answer, "matches")] == ["b_fine"]
    assert answer.result["skipped"] == 1


def test_what_is_no_pattern_is_refused(peer: Peer) -> None:
    for pattern in ("(", "", "x" * 20_000):
        assert peer.do("search", path=".", pattern=pattern).code == "bad_request"
    assert peer.do("search", path="/etc", pattern="x").code == "bad_path"


def test_nothing_is_left_when_the_host_goes(supervisor: RunningSupervisor, work: Path) -> None:
    (work / "trap").write_text("a" * 60 + "!")
    with supervisor.connect() as peer:
        peer.request("search", path=".", pattern="^(a+)+$")
        assert eventually(lambda: len(supervisor.descendants()) >= 2)
    assert eventually(lambda: not supervisor.descendants())


@pytest.mark.parametrize(
    ("glob", "path", "is_match"),
    [
        ("*.py", "a.py", True),
        ("*.py", "a.pyc", False),
        ("src/*.py", "src/a/b.py", False),
        ("src/**/*.py", "src/a.py", True),
        ("src/**", "src/a/b", True),
        ("**/x", "x", True),
        ("a?c", "abc", True),
        ("[!a]b", "ab", False),
        ("[ab]b", "ab", True),
        ("*.{ts,tsx}", "a.tsx", True),
        ("{", "{", False),
        (r"\*", "*", True),
        ("a+b", "a+b", True),
        ("a,b}", "a,b}", True),
    ],
)
def test_globs(glob: str, path: str, is_match: bool) -> None:
    try:
        regex = globs.to_regex(glob)
    except re.error:
        assert not is_match
        return
    assert bool(regex.fullmatch(path)) is is_match
