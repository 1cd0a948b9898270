"""What the command line prints: the checklist, components, findings, exit codes."""

import io
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from serve_app.cli import logs
from serve_app.cli.checklist import Checklist
from serve_app.cli.console import age, seconds, size
from serve_app.cli.doctor import show
from serve_app.cli.status import component, family, report
from serve_app.embedded.board import Snapshot, Step
from serve_app.embedded.preflight import Finding
from serve_app.embedded.state import Folders


def _snapshot(*steps: Step) -> Snapshot:
    return Snapshot(
        phase="starting", steps=steps, seconds=1, run_id="r", pid=1, base_url="http://l", data_dir="/d", logs_dir="/d/l"
    )


def test_a_plain_checklist_says_each_step_once() -> None:
    out = io.StringIO()
    running = Step(key="ray", title="Ray", state="started", seconds=0.1)
    done = Step(key="ray", title="Ray", state="done", seconds=2.34)
    with Checklist(Console(file=out, width=80)) as checklist:
        for step in (running, running, done, done):
            checklist.show(_snapshot(step))
    assert out.getvalue() == "✓ Ray  2.3 s\n"


def test_a_live_checklist_shows_what_runs() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, _environ={"TERM": "xterm"})
    with Checklist(console) as checklist:
        checklist.show(_snapshot(Step(key="ray", title="Ray", state="started", seconds=1.0), Step(key="x", title="Xx")))
    assert "Ray" in out.getvalue()
    assert "Xx" in out.getvalue()


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("/x/bin/postgres -D /d/postgres", "postgres"),
        ("postgres: checkpointer ", "postgres checkpointer"),
        ("/x/valkey-server unixsocket:/tmp/a", "valkey"),
        ("/x/raylet --worker=/x/ray/_private/workers/default_worker.py", "ray raylet"),
        ("ray::ServeReplica:api:Api", "ServeReplica:api:Api"),
        ("/x/python -P -m serve_app.embedded.supervisor", "supervisor"),
        ("/x/haproxy -db -f a.cfg", "haproxy"),
    ],
)
def test_components_have_names(title: str, name: str) -> None:
    assert component(title) == name


def test_a_report_counts_this_process() -> None:
    snapshot = _snapshot().model_copy(update={"pid": os.getpid(), "owner_api_key": "aek_secret"})
    said = report(snapshot)
    assert said["rss_bytes"] > 1_000_000
    assert "aek_secret" not in str(said)
    assert report(None) == {"phase": "stopped"}


def test_what_runs_in_a_sandbox_is_called_that() -> None:
    door = subprocess.Popen(["bwrap", "-c", "sleep 60; :"], executable="/bin/sh", start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while len(found := [row for row in family(os.getpid()) if row["component"] == "sandbox"]) < 2:
            assert time.monotonic() < deadline
    finally:
        os.killpg(door.pid, signal.SIGKILL)
        door.wait()
    assert door.pid in {row["pid"] for row in found}


def test_findings_come_with_what_mends_them() -> None:
    out = io.StringIO()
    findings = [
        Finding(name="Disk", ok=True, message="plenty"),
        Finding(name="Port", ok=False, message="Port 1 is taken.", mend="aether up --port 2"),
    ]
    assert show(findings, Console(file=out, width=80)) == 1
    assert out.getvalue() == "✓ Disk: plenty\n✗ Port: Port 1 is taken.\n  → aether up --port 2\n"
    assert show(findings[:1], Console(file=io.StringIO())) == 0


def test_units() -> None:
    assert [size(number) for number in (7, 1234, 5_000_000, 2.5e9)] == ["7 B", "1.2 kB", "5.0 MB", "2.50 GB"]
    assert (seconds(None), seconds(0.04)) == ("", "0.0 s")
    now = datetime(2026, 5, 4, tzinfo=UTC)
    ages = [age(now - timedelta(seconds=ago), now) for ago in (-3, 59, 60, 3_599, 7_200, 47 * 3_600, 48 * 3_600)]
    assert ages == ["0 s ago", "59 s ago", "1 min ago", "59 min ago", "2 h ago", "47 h ago", "2 days ago"]


def test_logs_are_found_running_and_stopped(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "data", tmp_path)
    kept = folders.logs_dir / "ray" / "serve-replica.log"
    kept.parent.mkdir(parents=True)
    kept.write_text("old")
    (folders.logs_dir / "postgres.log").write_text("x")
    assert logs.files(folders, ["postgres", "serve"]) == [folders.logs_dir / "postgres.log", kept]
    live = folders.run_dir / "ray" / "session_latest" / "logs" / "serve" / "replica.log"
    live.parent.mkdir(parents=True)
    live.write_text("new")
    assert logs.files(folders, ["serve"]) == [live]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (["--version"], {}, 0, "aether 0."),
        (["up"], {"AETHER_HTTP_PRT": "1"}, 2, "AETHER_HTTP_PORT"),
        (["doctor"], {"AETHER_HTTP_PORT": "many"}, 1, "AETHER_HTTP_PORT"),
        (["status"], {}, 1, "Not running"),
        (["down"], {}, 0, "Nothing is running"),
        (["logs", "nothing"], {}, 1, "one of: supervisor"),
        (["create"], {}, 1, "There is no prompt"),
        (["create", "x"], {"AETHER_HTTP_PORT": "1"}, 1, "aether up"),
        (["up", "--port", "0"], {}, 2, "greater than or equal to 1"),
    ],
)
def test_exit_codes(tmp_path: Path, arguments: list[str], environment: dict[str, str], code: int, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.cli.app", *arguments],
        env={"PATH": os.environ["PATH"], "AETHER_DATA_DIR": str(tmp_path / "data"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert says in done.stdout + done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr
