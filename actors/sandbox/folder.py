"""The folder of a node's pool: private, with a short name, and for one pool at a time."""

import fcntl
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from serve_app.core.errors import MisconfiguredError

_ROOT = Path("/tmp")  # noqa: S108 - what is made there is 0700 and ours, which is checked
_MOST_POOLS = 64


class PoolFolder:
    """Pools of one data folder share a place; each takes the first free folder in it.

    So a pool that starts after one was killed gets that one's folder, and its backends find there what to clear away.
    """

    def __init__(self, data_dir: Path, root: Path | None = None) -> None:
        # Short, because a Unix socket's path has at most 107 bytes.
        digest = hashlib.sha256(f"{os.geteuid()}:{data_dir}".encode()).hexdigest()[:8]
        self._place = (root or _ROOT) / f"aether-sbx-{digest}"
        self._lock = -1
        self.path = self._place
        self.name = ""

    def take(self) -> None:
        """Raises `MisconfiguredError` when the place is not ours alone, or cannot be made."""
        try:
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = self._place.lstat()
        except OSError as exc:
            raise MisconfiguredError(f"The folder {self._place} cannot be made: {exc.strerror}.") from exc
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise MisconfiguredError(f"{self._place} exists and is not a private folder of this user. Remove it.")
        for number in range(_MOST_POOLS):
            lock = _locked(self._place / f"{number}.lock")
            if lock is None:
                continue
            self._lock = lock
            self.name = f"{self._place.name}-{number}"
            self.path = self._place / str(number)
            self.path.mkdir(mode=0o700, exist_ok=True)
            return
        raise MisconfiguredError(f"{_MOST_POOLS} sandbox pools use {self._place} already.")

    def mark(self, is_used: bool) -> None:
        """Leave a sign, for whoever stops the platform, that there are workspaces to store."""
        sign = self.path / "leased"
        sign.touch() if is_used else sign.unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove it and let it go."""
        if self._lock < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.with_suffix(".lock").unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1
        with suppress(OSError):
            self._place.rmdir()  # the last one out


def _locked(path: Path) -> int | None:
    """The lock, or None: somebody has it, or has just removed it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None
