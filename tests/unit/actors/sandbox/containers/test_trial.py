"""The host's side of a trial reads what a container wrote without trusting it."""

import json
import os
from pathlib import Path

import pytest

from actors.sandbox.containers.trial import Bench
from serve_app.core.errors import MisconfiguredError, UnavailableError


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    source = tmp_path / "source"
    (source / "part").mkdir(parents=True)
    (source / "__main__.py").write_text("x = 1\n")
    (source / "part" / "more.py").write_text("x = 2\n")
    made = Bench(tmp_path / "trial", source)
    made.prepare()
    return made


def end_well(bench: Bench, **told: object) -> None:
    """What an honest container leaves."""
    for name in ("__main__", "part/more"):
        path = bench.out / "supervisor" / name
        (path.parent / "__pycache__" / f"{path.name}.cpython-311.pyc").write_text(name)
    findings = {"compiled": True, "tag": "cpython-311", "disk": 5, **told}
    (bench.out / "findings.json").write_text(json.dumps(findings))


def test_the_container_may_write_what_it_compiles_and_nothing_else(bench: Bench) -> None:
    assert (bench.out / "supervisor" / "part" / "__pycache__").stat().st_mode & 0o777 == 0o777
    assert bench.script.stat().st_mode & 0o777 == bench.door.stat().st_mode & 0o777 == 0o755
    assert (bench.out / "supervisor" / "__main__.py").stat().st_mode & 0o777 == 0o644


def test_findings_are_read_and_what_was_compiled_is_taken_beside_our_own_sources(bench: Bench) -> None:
    end_well(bench)
    (bench.out / "supervisor" / "__main__.py").write_text("evil = 1\n")
    (bench.out / "supervisor" / "more.py").write_text("evil = 1\n")
    found = bench.conclude("image", 0)
    assert found.told["disk"] == 5
    assert sorted(str(path.relative_to(found.supervisor)) for path in found.supervisor.rglob("*.py*")) == [
        "__main__.py", "__pycache__/__main__.cpython-311.pyc", "part/__pycache__/more.cpython-311.pyc", "part/more.py"
    ]  # fmt: skip
    assert (found.supervisor / "__main__.py").read_text() == "x = 1\n"
    assert (found.supervisor / "part" / "__pycache__" / "more.cpython-311.pyc").read_bytes() == b"part/more"
    modes = {path.stat().st_mode & 0o777 for path in (found.supervisor, *found.supervisor.rglob("*"))}
    assert modes == {0o755, 0o644}
    assert not bench.out.exists()


def test_an_end_by_the_memory_limit_is_a_finding(bench: Bench) -> None:
    end_well(bench, trying="memory")
    assert bench.conclude("image", 137).told["memory"] == "killed"


@pytest.mark.parametrize("part", ["supervisor", "supervisor/__pycache__", "supervisor/part"])
def test_no_folder_of_the_hosts_is_reached_through_a_link(bench: Bench, tmp_path: Path, part: str) -> None:
    end_well(bench)
    victim = tmp_path / "victim"
    (bench.out / part).rename(victim)
    (bench.out / part).symlink_to(victim)
    (victim / ".ssh").mkdir(mode=0o700)
    before = {path: path.stat().st_mode for path in (victim, *victim.rglob("*"))}
    with pytest.raises(MisconfiguredError, match="something else"):
        bench.conclude("image", 0)
    assert {path: path.stat().st_mode for path in (victim, *victim.rglob("*"))} == before


@pytest.mark.parametrize("trick", ["link", "pipe", "folder", "too long", "nothing"])
def test_what_was_compiled_is_a_plain_file(bench: Bench, tmp_path: Path, trick: str) -> None:
    end_well(bench)
    compiled = bench.out / "supervisor" / "__pycache__" / "__main__.cpython-311.pyc"
    compiled.unlink()
    match trick:
        case "link":
            (tmp_path / "secret").write_text("secret")
            compiled.symlink_to(tmp_path / "secret")
        case "pipe":
            os.mkfifo(compiled)
        case "folder":
            compiled.mkdir()
        case "too long":
            compiled.write_bytes(bytes(1024 * 1024 + 1))
    with pytest.raises(MisconfiguredError, match="something else"):
        bench.conclude("image", 0)


@pytest.mark.parametrize("tag", ["../../x", "", None, "x" * 40])
def test_a_python_does_not_choose_where_its_files_go(bench: Bench, tag: str | None) -> None:
    end_well(bench, tag=tag)
    with pytest.raises(MisconfiguredError, match="something else"):
        bench.conclude("image", 0)


@pytest.mark.parametrize(
    ("exit_code", "kind"),
    [(127, MisconfiguredError), (3, MisconfiguredError), (1, UnavailableError), (0, UnavailableError)],
)
def test_other_ends_are_told(bench: Bench, exit_code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="image"):
        bench.conclude("image", exit_code)


@pytest.mark.parametrize("trick", ["link", "pipe", "text", "list", "deep"])
def test_findings_that_are_none_are_not_believed(bench: Bench, tmp_path: Path, trick: str) -> None:
    path = bench.out / "findings.json"
    if trick == "link":
        (tmp_path / "secret").write_text('{"compiled": true}')
        path.symlink_to(tmp_path / "secret")
    elif trick == "pipe":
        os.mkfifo(path)
    else:
        path.write_text({"text": "{", "list": "[1]", "deep": "[" * 60_000}[trick])
    with pytest.raises(UnavailableError):
        bench.conclude("image", 0)


def test_a_tree_too_deep_for_python_is_removed(bench: Bench) -> None:
    at = os.open(bench.out, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    bench.remove()
    assert not bench.folder.exists()
