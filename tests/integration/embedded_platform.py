"""A platform on this machine whose deployer is scripted: everything `aether up` starts is real but the applications."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serve_app.embedded import processes
from serve_app.embedded.control import ControlClient
from serve_app.embedded.leftovers import end_leftovers
from serve_app.embedded.ports import free_port
from serve_app.embedded.state import Folders

_DEPLOYER = str(Path(__file__).with_name("scripted_deployer.py"))
_UP = """
import json, sys
import typer
from configs.settings import load_settings
from serve_app.cli import up
from serve_app.cli.console import say_failure, stdout
from serve_app.core.errors import AetherError
try:
    up.bring_up(load_settings(), stdout(), detach="--detach" in sys.argv, supervisor=json.loads(sys.argv[1]))
except typer.Exit as exc:
    sys.exit(exc.exit_code)
except AetherError as exc:
    say_failure(exc.message, exc.details.get("mend"))
    sys.exit(1)
"""


class EmbeddedPlatform:
    """One data folder and the commands on it, run as separate processes like a person's."""

    def __init__(self, folder: Path, *, ray_address: str | None) -> None:
        self.folder = folder
        self.folders = Folders(folder / "data")
        self.control = ControlClient(self.folders.control_socket)
        self.port = free_port()
        deployer = json.dumps([sys.executable, _DEPLOYER, str(folder)])
        self.supervisor = json.dumps([sys.executable, "-P", "-m", "serve_app.embedded.supervisor", deployer])
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AETHER_")},
            "AETHER_DATA_DIR": str(self.folders.data_dir),
            "AETHER_HTTP_PORT": str(self.port),
            **({"AETHER_RAY_ADDRESS": ray_address} if ray_address else {}),
        }

    def up(self, *options: str, timeout_s: float = 90.0) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", _UP, self.supervisor, *options]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def start_up(self, *options: str) -> "subprocess.Popen[str]":
        """`aether up` in a session of its own, as on a terminal."""
        command = [sys.executable, "-c", _UP, self.supervisor, *options]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A terminal's programs hear its signals, also when the tests themselves run in the background.
            preexec_fn=_hear_signals,  # noqa: PLW1509 - no threads run beside this fork
        )

    def aether(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "serve_app.cli.app", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=90)

    def until(self, holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)

    def is_ready(self) -> bool:
        snapshot = self.control.status()
        return snapshot is not None and snapshot.phase == "ready"

    @property
    def supervisor_pid(self) -> int:
        instance = self.folders.read_instance()
        assert instance is not None
        return instance.supervisor.pid

    def pid_of(self, word: str) -> int:
        """The one direct child of the supervisor with this program name."""
        for pid in processes.descendants([self.supervisor_pid]):
            first = processes.title(pid).split(" ")[0]
            if Path(first).name == word and "/" in first:
                return pid
        raise AssertionError(f"{word} does not run")

    def family(self) -> set[int]:
        return {self.supervisor_pid, *processes.descendants([self.supervisor_pid])}

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()


@contextlib.contextmanager
def embedded_platform(*, with_ray: bool) -> Iterator[EmbeddedPlatform]:
    """A fresh one; without Ray its place is taken by a port that accepts connections. Nothing is left behind."""
    folder = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
    with socket.create_server(("127.0.0.1", 0)) as stand_in:
        address = None if with_ray else f"127.0.0.1:{stand_in.getsockname()[1]}"
        platform = EmbeddedPlatform(folder, ray_address=address)
        try:
            yield platform
        finally:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                os.kill(platform.supervisor_pid, signal.SIGTERM)
            end_leftovers(platform.folders)
            shutil.rmtree(platform.folders.run_dir, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)


def _hear_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def all_gone(pids: set[int]) -> bool:
    return all(processes.start_ticks(pid) is None for pid in pids)
