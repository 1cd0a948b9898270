"""What sandboxes are put beside: bubblewrap and Docker alone, and a Jupyter kernel."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from actors.sandbox.bubblewrap.program import bubblewrap_program
from serve_app.core.errors import AetherError
from tests.bench.peers import ROOT, AbsentError
from tests.docker_engine import DockerEngine, running_engine
from tests.doubles.node import CACHE

T = TypeVar("T")

JUPYTER = ("jupyter_client==8.6.3", "ipykernel==6.30.1")
_JUPYTER_UNTIL = "2025-08-31"
"""What these releases could be installed with."""
_KERNEL = Path(__file__).with_name("sandbox_kernel.py")
_STUCK_S = 300


def bare_bubblewrap(count: int) -> list[float]:
    """Seconds of `/bin/true` in the namespaces and private folders that every sandbox has, and nothing of ours."""
    try:
        program = bubblewrap_program()
    except AetherError as exc:
        raise AbsentError(exc.message) from exc
    command = [
        str(program),
        "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup",
        "--disable-userns", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL",
        "--as-pid-1", "--die-with-parent", "--new-session",
        "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
        "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
        "--tmpfs", "/home/agent", "--tmpfs", "/work", "--chdir", "/work", "/bin/true",
    ]  # fmt: skip
    return _timed(command, count)


def docker_run(engine: DockerEngine, count: int) -> list[float]:
    """Seconds of `docker run … true`, with the command line people use."""
    command = ["docker", "--host", engine.address, "run", "--rm", "--network", "none", engine.image, "true"]
    return _timed(command, count)


def _timed(command: list[str], count: int) -> list[float]:
    found = []
    for number in range(-2, count):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, timeout=_STUCK_S, check=False)
        if done.returncode:
            raise AbsentError(f"{Path(command[0]).name}: {done.stderr.strip()[-300:]}")
        if number >= 0:
            found.append(time.perf_counter() - began)
    return found


@contextmanager
def engine(folder: Path) -> Iterator[DockerEngine]:
    """A Docker engine of this run's own. Raises `AbsentError`."""
    folder.mkdir()
    try:
        with running_engine(folder) as found:
            yield found
    except (pytest.skip.Exception, pytest.fail.Exception, AssertionError) as exc:
        raise AbsentError(str(exc)[-300:]) from exc


def kernel_cells(count: int) -> tuple[float, list[float]]:
    """Seconds a Jupyter kernel takes to start, and of each `1+1` until it is idle again."""
    done = subprocess.run(
        [_jupyter() / "bin" / "python", _KERNEL, str(count)],
        capture_output=True, text=True, timeout=_STUCK_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise AbsentError(f"the kernel: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout)
    return found["start_s"], found["cells_s"]


def _jupyter() -> Path:
    """An environment of its own in the user's cache, made once."""
    target = CACHE / "bench" / f"jupyter-{JUPYTER[0].partition('==')[2]}-{JUPYTER[1].partition('==')[2]}"
    if target.is_dir():
        return target
    own = ROOT / ".uv" / "bin" / "uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None:
        raise AbsentError("no uv to install it with")
    # Named at the end: an interrupted installation is not taken for a whole one.
    fresh = target.with_suffix(".new")
    for command in (
        [uv, "venv", "--clear", "--relocatable", "--python", sys.executable, str(fresh)],
        [uv, "pip", "install", "--python", str(fresh / "bin" / "python"), "--exclude-newer", _JUPYTER_UNTIL, *JUPYTER],
    ):
        done = subprocess.run(
            command,
            env={"UV_SYSTEM_CERTS": "1", **os.environ},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if done.returncode:
            raise AbsentError(f"uv: {done.stderr.strip()[-300:]}")
    return fresh.rename(target)


def whether_there(name: str, measure: Callable[[], T], say: Callable[[str], None]) -> T | None:
    """None, and why, where the peer cannot be had on this machine."""
    try:
        return measure()
    except AbsentError as exc:
        say(f"{name} is left out: {exc}")
        return None
