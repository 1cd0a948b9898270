"""gVisor and what Ray's sandboxes need beside it, of a newer Debian than the machine may be, fetched once."""

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aetheros"
_FETCH = Path(__file__).resolve().parents[1] / ".ci" / "gvisor"
_FETCH_S = 150


def without(reason: str) -> NoReturn:
    """Skip what needs it; where CI=true, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def gvisor_tools() -> Path:
    """The folder with `runsc` and `mkfs.erofs`."""
    digest = hashlib.sha256(_FETCH.read_bytes()).hexdigest()[:16]
    folder = CACHE / "sandbox" / f"gvisor-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "gvisor-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            done = subprocess.run([_FETCH, folder], capture_output=True, text=True, timeout=_FETCH_S, check=False)
            if done.returncode != 0:
                without(done.stderr.strip())
    return folder / "bin"
