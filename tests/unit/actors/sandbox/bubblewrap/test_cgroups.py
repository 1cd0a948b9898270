"""Finding and using control groups of both versions, in folders that look like the kernel's."""

from pathlib import Path

import pytest

from actors.sandbox.base import Usage
from actors.sandbox.bubblewrap.cgroups import Hierarchy, Quota, hierarchies, remove_folders
from actors.sandbox.bubblewrap.cgroups_v1 import V1Group, V1Groups, find_v1
from actors.sandbox.bubblewrap.cgroups_v2 import V2Groups, find_v2
from actors.sandbox.bubblewrap.limits import Holds

QUOTA = Quota(memory_bytes=64 * 1024**2, processes=34, cpu=0.5)
FILES = {
    "memory": (
        "tasks",
        "cgroup.procs",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.kmem.tcp.limit_in_bytes",
        "memory.usage_in_bytes",
    ),
    "cpu,cpuacct": ("tasks", "cgroup.procs", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpuacct.usage"),
    "pids": ("tasks", "cgroup.procs", "pids.max", "pids.current"),
    "unified": (
        "cgroup.procs",
        "memory.max",
        "memory.swap.max",
        "memory.current",
        "pids.max",
        "pids.current",
        "cpu.max",
    ),
}


def proc(tmp_path: Path, cgroup: str, mounts: str) -> Path:
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mounts)
    return folder


def test_version_1_is_found_with_its_own_folder_in_each_hierarchy(tmp_path: Path) -> None:
    memory, cpu = tmp_path / "memory", tmp_path / "cpu,cpuacct"
    (memory / "user").mkdir(parents=True)
    cpu.mkdir()
    found = hierarchies(
        proc(
            tmp_path,
            "9:name=systemd:/\n4:memory:/user\n1:cpu,cpuacct:/\n",
            f"30 29 0:1 / {memory} rw - cgroup cgroup rw,memory\n31 29 0:2 / {cpu} rw - cgroup cgroup rw,cpu,cpuacct\n",
        )
    )
    assert found == [
        Hierarchy(frozenset({"memory"}), memory, memory / "user"),
        Hierarchy(frozenset({"cpu", "cpuacct"}), cpu, cpu),
    ]


def test_in_a_container_the_mount_shows_a_part_of_the_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cg" / "inner").mkdir(parents=True)
    line = f"30 29 0:1 /docker/abc {tmp_path / 'cg'} rw - cgroup2 cgroup rw\n"
    [found] = hierarchies(proc(tmp_path, "0::/docker/abc/inner\n", line))
    assert found.own == tmp_path / "cg" / "inner"


def test_a_hierarchy_beyond_the_namespace_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "cg").mkdir()
    assert not hierarchies(proc(tmp_path, "0::/../x\n", f"30 29 0:1 / {tmp_path / 'cg'} rw - cgroup2 cgroup rw\n"))


class FakeFolder(type(Path())):  # type: ignore[misc]  # the class of paths is chosen when Python runs
    """A path whose new folders are filled with files, as the kernel does."""

    def mkdir(self, *args: object, **kwargs: object) -> None:
        super().mkdir(*args, **kwargs)
        names = next((files for part, files in FILES.items() if part in self.parts), ("cgroup.procs",))
        for name in names:
            (self / name).write_text("0")


def v1_places(tmp_path: Path) -> dict[str, Path]:
    places: dict[str, Path] = {}
    for part in ("memory", "cpu,cpuacct", "pids"):
        (tmp_path / part).mkdir()
        places |= dict.fromkeys(part.split(","), FakeFolder(tmp_path / part))
    return places


def test_version_1_writes_each_limit_to_its_controller(tmp_path: Path) -> None:
    groups = V1Groups(v1_places(tmp_path))
    assert groups.controllers == {"memory", "cpu", "pids"}
    group = groups.create("sbx", QUOTA)
    assert (tmp_path / "memory/sbx/memory.limit_in_bytes").read_text() == str(QUOTA.memory_bytes)
    assert (tmp_path / "memory/sbx/memory.memsw.limit_in_bytes").read_text() == str(QUOTA.memory_bytes)
    assert (tmp_path / "memory/sbx/memory.kmem.tcp.limit_in_bytes").read_text() == str(16 * 1024**2)
    assert (tmp_path / "cpu,cpuacct/sbx/cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "pids/sbx/pids.max").read_text() == "34"
    assert len(group.joins) == len(group.folders) == 3
    group.close_joins()
    assert not group.joins
    (tmp_path / "memory/sbx/memory.usage_in_bytes").write_text("4096\n")
    (tmp_path / "cpu,cpuacct/sbx/cpuacct.usage").write_text("1500000000\n")
    (tmp_path / "pids/sbx/pids.current").write_text("3\n")
    assert group.usage() == Usage(4096, 1.5, 3)
    assert not group.freeze()


def test_version_1_says_what_its_limit_of_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "memory", ("tasks", "cgroup.procs", "memory.limit_in_bytes"))
    groups = V1Groups(v1_places(tmp_path))
    assert "TCP" in groups.memory_gaps[0]
    assert "swap" in groups.memory_gaps[1]
    [note] = [one.note for one in Holds(groups, "").limits() if one.limit == "memory"]
    assert all(gap in note for gap in groups.memory_gaps)
    groups.create("sbx", QUOTA).close_joins()
    assert (tmp_path / "memory/sbx/memory.swappiness").read_text() == "0"
    assert not (tmp_path / "memory/sbx/memory.memsw.limit_in_bytes").exists()
    for name in ("memory.kmem.tcp.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        (tmp_path / "memory" / name).write_text("0")
    assert not groups.memory_gaps


def test_version_1_that_cannot_freeze_goes_on_running(tmp_path: Path) -> None:
    group = V1Group({"freezer": tmp_path}, ())
    (tmp_path / "freezer.state").write_text("THAWED")
    assert group.freeze()
    assert (tmp_path / "freezer.state").read_text() == "FROZEN"
    (tmp_path / "freezer.state").unlink()
    (tmp_path / "freezer.state").mkdir()
    assert not group.freeze()


def test_version_1_says_why_there_are_none(tmp_path: Path) -> None:
    missing = Hierarchy(frozenset({"memory"}), tmp_path, tmp_path / "gone")
    groups, reason = find_v1([missing], "aether")
    assert groups is None
    assert "no control groups may be made here" in reason


def v2_folder(folder: Path, *, controllers: str, handed_on: str, is_topmost: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text(handed_on)
    (folder / "cgroup.procs").write_text("")
    if not is_topmost:
        (folder / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    return folder


def test_version_2_takes_a_place_that_hands_controllers_on(tmp_path: Path) -> None:
    own = v2_folder(tmp_path / "own", controllers="cpu memory pids", handed_on="cpu memory pids")
    v2_folder(own / "aether", controllers="cpu memory pids", handed_on="cpu memory pids")
    groups, reason = find_v2(Hierarchy(frozenset(), tmp_path, own), "aether", is_root=False)
    assert not reason
    assert groups is not None
    assert groups.controllers == {"cpu", "memory", "pids"}


def test_version_2_steps_out_of_the_leaf_an_earlier_pool_moved_us_to(tmp_path: Path) -> None:
    own = v2_folder(tmp_path / "own", controllers="memory", handed_on="memory")
    leaf = v2_folder(own / "aether-platform", controllers="memory", handed_on="")
    v2_folder(own / "aether", controllers="memory", handed_on="memory")
    groups, _ = find_v2(Hierarchy(frozenset(), tmp_path, leaf), "aether", is_root=False)
    assert groups is not None


def test_version_2_writes_all_limits_to_one_folder(tmp_path: Path) -> None:
    place = v2_folder(tmp_path / "unified", controllers="cpu memory pids", handed_on="cpu memory pids")
    (place / "cgroup.freeze").write_text("0")
    group = V2Groups(FakeFolder(place)).create("sbx", QUOTA)
    folder = place / "sbx"
    assert (folder / "memory.max").read_text() == str(QUOTA.memory_bytes)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "pids.max").read_text() == "34"
    assert (folder / "cpu.max").read_text() == "50000 100000"
    group.close_joins()
    (folder / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (folder / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert group.usage() == Usage(0, 2.5, 0)
    assert group.killed_for_memory() == 1
    (folder / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert group.freeze()
    group.thaw()
    assert (folder / "cgroup.freeze").read_text() == "0"


def test_version_2_says_how_a_user_gets_a_place(tmp_path: Path) -> None:
    own = v2_folder(tmp_path / "own", controllers="", handed_on="")
    groups, reason = find_v2(Hierarchy(frozenset(), tmp_path, own), "aether", is_root=False)
    assert groups is None
    assert "Delegate=yes" in reason


def test_a_folder_that_is_gone_counts_as_removed(tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "child").mkdir()
    assert remove_folders([tmp_path / "gone"])
    assert not remove_folders([tmp_path / "busy"])
