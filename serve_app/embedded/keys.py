"""Secrets of a one-machine platform: made once, kept in the data folder, readable by their owner alone."""

import secrets
from pathlib import Path

from serve_app.embedded.state import write_private


def keep(path: Path) -> str:
    """The secret in `path`, made on the first call."""
    found = read(path)
    if found is None:
        found = secrets.token_hex(32)
        write_private(path, found.encode())
    return found


def read(path: Path) -> str | None:
    """The secret in `path`; None when there is none."""
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
