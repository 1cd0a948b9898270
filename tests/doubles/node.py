"""What the tests run with Node: the packages `js/package-lock.json` pins, installed once for each lock file."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "js"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aetheros"


def node_modules() -> Path:
    """The folder of the installed packages. Without npm the test is skipped, in CI it fails."""
    if shutil.which("npm") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no npm on this machine; install Node 20 or newer")
        pytest.skip("no npm on this machine")
    return installed(PROJECT)


def installed(project: Path) -> Path:
    """Runs `npm ci` for a folder with a lock file, into a folder of its own in the user's cache."""
    lock = (project / "package-lock.json").read_bytes()
    target = CACHE / "node" / hashlib.sha256(lock).hexdigest()[:16]
    if target.is_dir():
        return target / "node_modules"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Whoever finishes first renames; nobody ever sees half an installation.
    fresh = Path(tempfile.mkdtemp(prefix="installing-", dir=target.parent))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(project / name, fresh)
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=fresh, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"npm ci: {done.stdout}\n{done.stderr}"
        if not target.is_dir():
            fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target / "node_modules"
