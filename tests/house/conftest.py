"""What the house tests look at: the files a clone would hold."""

import subprocess
from pathlib import Path

import pytest

PACKAGES = ("configs", "serve_app", "actors")
_BY_MACHINES = {"uv.lock", "LICENSE"}


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the tree."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def written_files(root: Path) -> dict[str, str]:
    """Path to text of every file somebody wrote, committed or about to be."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = sorted(name for name in listing.split("\0") if name and name not in _BY_MACHINES)
    return {name: _text(root / name) for name in names if (root / name).is_file()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""  # a picture or another binary: no rule reads it


@pytest.fixture(scope="session")
def modules(written_files: dict[str, str]) -> dict[str, str]:
    """Path to source of every Python module, tests too; empty package markers are left out."""
    return {name: text for name, text in written_files.items() if name.endswith(".py") and text.strip()}


@pytest.fixture(scope="session")
def shipped_modules(modules: dict[str, str]) -> dict[str, str]:
    """The modules that users run."""
    return {name: text for name, text in modules.items() if name.split("/")[0] in PACKAGES}
