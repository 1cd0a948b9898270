"""The supervisor with real servers: what it starts it keeps, and what it keeps it stops."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.embedded import processes
from tests.integration.embedded_platform import EmbeddedPlatform, all_gone, embedded_platform


@pytest.fixture
def platform() -> Iterator[EmbeddedPlatform]:
    with embedded_platform(with_ray=False) as platform:
        yield platform


def test_it_starts_tells_and_stops(platform: EmbeddedPlatform) -> None:
    done = platform.up("--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "aek_owner" in done.stdout
    assert (platform.folders.data_dir / "cli.key").read_text() == "aek_cli"
    told = json.loads((platform.folder / "environment.json").read_text())
    assert told["AETHER_DATABASE_URL"] == f"postgresql://aether@/aether?host={platform.folders.run_dir}/pg"
    assert told["AETHER_REDIS_URL"] == f"unix://{platform.folders.run_dir}/valkey.sock"
    assert len(told["AETHER_SECURITY_SECRET_KEY"]) == 64
    assert processes.rss_bytes(platform.supervisor_pid) < 60_000_000
    family = platform.family()
    assert platform.aether("down").returncode == 0
    assert all_gone(family)
    assert platform.calls() == ["deploy", "undeploy"]
    assert not platform.folders.run_dir.exists()
    assert platform.folders.read_instance() is None
    # The second start finds its data and keeps its keys.
    again = platform.up("--detach")
    assert again.returncode == 0
    assert (
        json.loads((platform.folder / "environment.json").read_text())["AETHER_SECURITY_SECRET_KEY"]
        == (told["AETHER_SECURITY_SECRET_KEY"])
    )


def test_servers_that_are_killed_come_back(platform: EmbeddedPlatform) -> None:
    platform.up("--detach")
    for name in ("postgres", "valkey-server"):
        before = platform.pid_of(name)
        os.kill(before, signal.SIGKILL)
        platform.until(lambda name=name: f"{name.split('-')[0]} is back" in _log(platform))  # type: ignore[misc]  # bound now
        assert platform.pid_of(name) != before
    assert platform.is_ready()


def test_a_failed_deployment_stops_everything_and_says_why(platform: EmbeddedPlatform) -> None:
    (platform.folder / "fail").touch()
    done = platform.up("--detach")
    assert done.returncode == 1
    assert "the schema is from the future" in done.stderr
    assert "aether logs deployer" in done.stderr
    assert platform.folders.read_instance() is None
    assert not platform.folders.run_dir.exists()
    (platform.folder / "fail").unlink()
    assert platform.up("--detach").returncode == 0


def test_a_server_of_somebody_else_that_is_missing(platform: EmbeddedPlatform) -> None:
    platform.environment["AETHER_REDIS_URL"] = "redis://127.0.0.1:1"
    done = platform.up("--detach")
    assert done.returncode == 1
    assert "AETHER_REDIS_URL points at 127.0.0.1:1" in done.stderr
    assert platform.folders.read_instance() is None


def test_sigterm_is_a_stop(platform: EmbeddedPlatform) -> None:
    platform.up("--detach")
    family = platform.family()
    os.kill(platform.supervisor_pid, signal.SIGTERM)
    platform.until(lambda: all_gone(family))
    assert not platform.folders.run_dir.exists()


def test_ray_is_started_on_loopback_and_again_when_it_dies() -> None:
    with embedded_platform(with_ray=True) as platform:
        done = platform.up("--detach")
        assert done.returncode == 0, done.stdout + done.stderr
        addresses = {address for pid in platform.family() for address in _listening(pid)}
        assert addresses
        # 127.0.0.1, and the same mapped into IPv6, as /proc writes them.
        assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
        os.kill(platform.pid_of("gcs_server"), signal.SIGKILL)
        platform.until(lambda: platform.calls() == ["deploy", "deploy"])
        platform.until(platform.is_ready)
        family = platform.family()
        assert platform.aether("down").returncode == 0
        assert all_gone(family)
        assert platform.aether("logs", "ray").stdout


def _log(platform: EmbeddedPlatform) -> str:
    return (platform.folders.logs_dir / "supervisor.log").read_text()


def _listening(pid: int) -> set[str]:
    """Local addresses this process listens on, in the hexadecimal of /proc/net."""
    rows = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    listening = {f"socket:[{row[9]}]": row[1].partition(":")[0] for row in rows if row[3] == "0A"}
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(listening.get(str(entry.readlink()), ""))
        except OSError:
            continue
    return found - {""}
