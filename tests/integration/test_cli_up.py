"""`aether up` and `aether down` as a person meets them: twice, interrupted, killed, refused."""

import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.integration.embedded_platform import EmbeddedPlatform, all_gone, embedded_platform


@pytest.fixture
def platform() -> Iterator[EmbeddedPlatform]:
    with embedded_platform(with_ray=False) as platform:
        yield platform


def test_a_second_up_finds_the_first(platform: EmbeddedPlatform) -> None:
    assert platform.up("--detach").returncode == 0
    pid = platform.supervisor_pid
    again = platform.up()
    assert again.returncode == 0
    assert "already up" in again.stdout
    assert f"http://localhost:{platform.port}/v1" in again.stdout
    assert "aek_owner" not in again.stdout
    assert platform.supervisor_pid == pid


def test_two_at_once_make_one_platform(platform: EmbeddedPlatform) -> None:
    with platform.start_up("--detach") as first, platform.start_up("--detach") as second:
        said = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert platform.calls() == ["deploy"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_stops_everything(platform: EmbeddedPlatform, number: signal.Signals) -> None:
    with platform.start_up() as terminal:
        platform.until(platform.is_ready)
        family = platform.family()
        os.kill(terminal.pid, number)
        said, _ = terminal.communicate(timeout=30)
    assert terminal.returncode == 0, said
    assert "Stopped." in said
    assert all_gone(family)


def test_ctrl_c_while_starting_stops_everything(platform: EmbeddedPlatform) -> None:
    with platform.start_up() as terminal:
        platform.until(lambda: platform.control.status() is not None)
        family = platform.family()
        terminal.send_signal(signal.SIGINT)
        terminal.communicate(timeout=30)
    assert terminal.returncode in {0, 130}
    assert all_gone(family)
    assert platform.folders.read_instance() is None


def test_down_after_the_terminal_was_killed(platform: EmbeddedPlatform) -> None:
    with platform.start_up() as terminal:
        platform.until(platform.is_ready)
        terminal.kill()
        terminal.communicate(timeout=10)
    assert platform.is_ready()
    family = platform.family()
    assert platform.aether("down").returncode == 0
    assert all_gone(family)


def test_down_after_the_supervisor_was_killed(platform: EmbeddedPlatform) -> None:
    platform.up("--detach")
    family = platform.family()
    os.kill(platform.supervisor_pid, signal.SIGKILL)
    platform.until(lambda: bool(platform.folders.leftovers()))
    refused = platform.up("--detach")
    assert refused.returncode == 1
    assert "An earlier start did not finish" in refused.stderr
    assert "aether down" in refused.stderr
    assert platform.aether("status").returncode == 1
    doctor = platform.aether("doctor")
    assert doctor.returncode == 1
    assert "→ aether down" in doctor.stdout
    assert platform.aether("down").returncode == 0
    assert all_gone(family)
    assert platform.up("--detach").returncode == 0


def test_a_taken_port_is_refused_before_anything_starts(platform: EmbeddedPlatform) -> None:
    with socket.create_server(("127.0.0.1", platform.port)):
        done = platform.up("--detach")
    assert done.returncode == 1
    assert f"Port {platform.port} is taken" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert not platform.folders.data_dir.exists()


def test_status_for_programs(platform: EmbeddedPlatform) -> None:
    platform.up("--detach")
    said = json.loads(platform.aether("status", "--json").stdout)
    assert said["phase"] == "ready"
    assert {"supervisor", "postgres", "valkey"} <= {row["component"] for row in said["processes"]}
    assert said["rss_bytes"] == sum(row["rss_bytes"] for row in said["processes"])
    shown = platform.aether("status")
    assert shown.returncode == 0
    assert "Total" in shown.stdout
    assert "valkey" in platform.aether("logs", "valkey", "-n", "5").stdout
