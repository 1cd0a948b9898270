"""A real Docker engine of a test run's own, with runc and gVisor, and the image sandboxes are started from in it."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.gvisor import CACHE, gvisor_tools, without

IMAGE = "aether-sandbox:test"
IMAGE_FOLDER = Path(__file__).resolve().parents[1] / "kuberay" / "images" / "sandbox"
_SYSTEM_SOCKET = Path("/var/run/docker.sock")
_START_S, _STOP_S, _IMAGE_S = 30.0, 30.0, 280.0


@dataclass(frozen=True)
class DockerEngine:
    """`address` as the engine's clients take it."""

    address: str
    image: str
    runtimes: frozenset[str]


@contextmanager
def running_engine(folder: Path) -> Iterator[DockerEngine]:
    """Root's own engine, below `folder`; for others the system's, where they may use it. Nothing of it is left."""
    if os.geteuid() != 0:
        if not os.access(_SYSTEM_SOCKET, os.W_OK):
            without("Tests of Docker sandboxes need root, or an engine at /var/run/docker.sock.")
        address = f"unix://{_SYSTEM_SOCKET}"
        ask(address, "build", "--quiet", "--tag", IMAGE, str(IMAGE_FOLDER), timeout_s=_IMAGE_S)
        yield _engine(address)
        return
    tools = [name for name in ("dockerd", "containerd", "runc", "docker", "debootstrap") if not _which(name)]
    if tools:
        without(f"Tests of Docker sandboxes need {', '.join(tools)}: run .ci/engine.")
    archive = image_archive()
    address = f"unix://{folder}/engine"
    daemon = _start(folder, address)
    try:
        _wait(address, daemon, folder / "log")
        with archive.open("rb") as file:
            ask(address, "import", "-", IMAGE, stdin=file.fileno(), timeout_s=_IMAGE_S)
        yield _engine(address)
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        _end_what_is_left(folder)


def ask(address: str, *arguments: str, stdin: int = subprocess.DEVNULL, timeout_s: float = 60) -> str:
    """What the engine's own command line answers."""
    done = subprocess.run(
        ["docker", "--host", address, *arguments], stdin=stdin, capture_output=True, text=True, timeout=timeout_s,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"docker {arguments[0]}: {done.stderr}"
    return done.stdout


def image_archive() -> Path:
    """The sandbox image as a tar archive, made once for each version of what makes it."""
    sources = (IMAGE_FOLDER / name for name in ("from-debian", "setup"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    archive = CACHE / "sandbox" / f"{digest}.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with (archive.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.is_file():
            done = subprocess.run(
                [IMAGE_FOLDER / "from-debian", archive], capture_output=True, text=True, timeout=_IMAGE_S, check=False
            )
            assert done.returncode == 0, f"from-debian: {done.stderr}"
    return archive


def _start(folder: Path, address: str) -> "subprocess.Popen[bytes]":
    runsc = str(gvisor_tools() / "runsc")
    runtimes = {"runsc": {"path": runsc, "runtimeArgs": ["--host-uds=open", "--network=none"]}}
    (folder / "daemon.json").write_text(json.dumps({"runtimes": runtimes}))
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [
                _which("dockerd") or "dockerd", f"--config-file={folder}/daemon.json", f"--host={address}",
                f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid",
                "--iptables=false", "--ip6tables=false", "--bridge=none",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        )  # fmt: skip


def _wait(address: str, daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        done = subprocess.run(["docker", "--host", address, "version"], capture_output=True, timeout=20, check=False)
        if done.returncode == 0:
            return
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"Docker's engine did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def _engine(address: str) -> DockerEngine:
    names = json.loads(ask(address, "info", "--format", "{{json .Runtimes}}"))
    return DockerEngine(address, IMAGE, frozenset(names))


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _end_what_is_left(folder: Path) -> None:
    """A start that failed leaves its shim, and an engine that had to be killed its mounts."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{folder}/exec/".encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
        except OSError:
            continue  # it has just ended
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, timeout=20)
