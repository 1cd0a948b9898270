"""What sandboxes are made of: /etc, layers of packages, whom they run as, what is explained where they cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.sandbox.base import LimitName, Means
from actors.sandbox.bubblewrap.ability import explain, with_core_dumps
from actors.sandbox.bubblewrap.arguments import bubblewrap_arguments
from actors.sandbox.bubblewrap.etc import make_etc
from actors.sandbox.bubblewrap.identities import find_identities
from actors.sandbox.bubblewrap.image import Images
from actors.sandbox.bubblewrap.layers import Layers, closure
from actors.sandbox.bubblewrap.limits import Holds
from actors.sandbox.bubblewrap.program import bubblewrap_program
from configs.sandboxes import Limits
from serve_app.core.errors import MisconfiguredError, UnenforceableError

EVERY_LIMIT: set[LimitName] = {
    "cpu", "memory", "disk", "inodes", "processes", "open_files", "network", "system_calls",
}  # fmt: skip


def test_etc_has_no_secrets_and_leads_nowhere_else(tmp_path: Path) -> None:
    host = tmp_path / "host"
    (host / "ssl/private").mkdir(parents=True)
    (host / "ssl/private/key.pem").write_text("secret")
    (host / "ssl/certs").mkdir()
    (host / "ssl/certs/one.pem").write_text("certificate")
    (host / "ssl/certs/linked.pem").symlink_to("one.pem")
    (host / "ssl/certs/elsewhere.pem").symlink_to(host / "shadow")
    (host / "shadow").write_text("root:hash")
    (host / "shadow").chmod(0o600)
    (host / "passwd").write_text("somebody:x:1001:1001::/home/somebody:/bin/sh\n")
    (host / "services").write_text("http 80/tcp\n")
    for readable in ("services", "passwd", "ssl/certs/one.pem"):
        (host / readable).chmod(0o644)
    make_etc(tmp_path / "etc", host)
    texts = {str(path.relative_to(tmp_path / "etc")): path for path in (tmp_path / "etc").rglob("*") if path.is_file()}
    assert "services" in texts
    assert texts["ssl/certs/linked.pem"].is_symlink()
    assert "somebody" not in texts["passwd"].read_text()
    assert not {"shadow", "ssl/private/key.pem", "ssl/certs/elsewhere.pem"} & set(texts)
    assert all(path.stat().st_mode & 0o004 for path in texts.values())


def test_a_layer_has_what_its_packages_need_and_is_made_once(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "layers")
    layer = layers.make(["structlog", "jsonschema"])
    assert (layer / "structlog/__init__.py").is_file()
    assert (layer / "jsonschema/__init__.py").is_file()
    assert (layer / "referencing/__init__.py").is_file()
    assert not (layer / "pytest").exists()
    assert layers.make(["jsonschema", "structlog"]) == layer
    assert all(path.stat().st_mode & 0o004 for path in layer.rglob("*"))


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(MisconfiguredError, match="no-such-package"):
        closure(["no-such-package"])


def test_the_command_line_shares_no_namespace(tmp_path: Path) -> None:
    image = Images(tmp_path, bubblewrap_program(), has_own_users=True).make([], b"")
    words = bubblewrap_arguments(image, has_egress=True, disables_user_namespaces=True, hidden={"keys": False})
    assert {f"--unshare-{kind}" for kind in ("user", "ipc", "pid", "net", "uts", "cgroup")} <= set(words)
    assert {"--as-pid-1", "--die-with-parent", "--new-session", "--disable-userns", "--egress"} <= set(words)
    targets = [source for target, source in zip(words[1:], words, strict=False) if target == "/"]
    assert targets == ["/image"]


def test_images_know_the_interpreter_that_runs_us(tmp_path: Path) -> None:
    image = Images(tmp_path, bubblewrap_program(), has_own_users=False).make([], b"filter")
    assert str(image.python) == os.path.realpath(image.python)
    assert (tmp_path / "base/supervisor/__main__.pyc").is_file()
    assert (tmp_path / "base/filter").read_bytes() == b"filter"


@pytest.mark.parametrize(
    ("uid_map", "euid", "are_own"),
    [
        ("0 0 4294967295", 0, True),
        ("0 100000 65536", 0, True),
        ("0 1000 1", 0, False),
        ("0 0 4294967295", 1000, False),
    ],
)
def test_root_gives_each_sandbox_a_user(tmp_path: Path, uid_map: str, euid: int, are_own: bool) -> None:
    (tmp_path / "map").write_text(uid_map)
    identities = find_identities(tmp_path / "map", euid=euid)
    assert identities.are_own == are_own
    first, second = identities.take(), identities.take()
    if not are_own:
        assert first is second is None
        return
    assert first is not None
    assert second is not None
    assert first != second
    assert min(first, second) >= 1000
    identities.give_back(first)
    third = identities.take()
    assert third not in {first, second}, "an id rests before it is somebody else's"


def test_without_groups_every_limit_is_held_by_other_means() -> None:
    holds = Holds(None, "no control groups", cores=(0, 1))
    means = {one.limit: one.means for one in holds.limits()}
    assert set(means) == EVERY_LIMIT
    assert means["memory"] is Means.WATCHDOG
    assert means["processes"] is Means.RLIMIT
    assert {"memfd_create", "shmget", "sched_setaffinity"} == holds.forbidden_calls
    assert holds.cpus(Limits(cpu=1), turn=0) == [0]
    assert holds.cpus(Limits(cpu=1.5), turn=1) == [1]
    assert holds.cpus(Limits(cpu=2), turn=0) is None
    with pytest.raises(UnenforceableError, match=r"0\.5 of a core"):
        holds.cpus(Limits(cpu=0.5), turn=0)


def test_a_failure_is_explained_by_what_the_machine_forbids(tmp_path: Path) -> None:
    assert explain("It failed.", tmp_path) == "It failed."
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")
    (tmp_path / ".dockerenv").touch()
    explained = explain("It failed.", tmp_path)
    assert "apparmor_restrict_unprivileged_userns=0" in explained
    assert "container" in explained


def test_it_is_said_where_a_crash_starts_a_program_of_the_host(tmp_path: Path) -> None:
    limits = Holds(None, "no control groups").limits()
    pattern = tmp_path / "proc/sys/kernel/core_pattern"
    pattern.parent.mkdir(parents=True)
    pattern.write_text("core\n")
    assert with_core_dumps(limits, tmp_path) == limits
    pattern.write_text("|/usr/lib/systemd/systemd-coredump %P\n")
    warned = with_core_dumps(limits, tmp_path)
    assert ["core_pattern" in one.note for one in warned] == [one.limit == "disk" for one in limits]


def test_layers_that_would_be_made_otherwise_now_are_forgotten(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    current = layers.make(["jsonschema"])
    old = tmp_path / "0123456789abcdef"
    old.mkdir()
    (tmp_path / "0123456789abcdef.packages").write_text("jsonschema")
    (tmp_path / "making-x").mkdir()
    layers.forget_old()
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {current}
    assert not (tmp_path / "0123456789abcdef.packages").exists()


def test_a_layer_can_be_read_by_others_whatever_the_habits_of_this_process(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        layer = Layers(tmp_path).make(["jsonschema"])
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o004 for path in [layer, *layer.rglob("*")])


def started(supervisor: Path) -> str:
    """What a supervisor without arguments says, and every module that Python looked for on its way there."""
    command = [sys.executable, "-I", "-S", "-B", "-X", "importtime", str(supervisor / "__main__.pyc")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr


def test_nothing_of_the_supervisor_is_looked_for_when_it_starts(tmp_path: Path) -> None:
    images = Images(tmp_path, bubblewrap_program(), has_own_users=False)
    supervisor = images._base(b"") / "supervisor"
    said = started(supervisor)
    assert "give --token-fd" in said
    assert "supervisor." not in said
    # And without what was prepared it starts all the same.
    (supervisor / "start.bin").unlink()
    said = started(supervisor)
    assert "give --token-fd" in said
    assert "supervisor.trees" in said
