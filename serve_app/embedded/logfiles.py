"""Log files of the processes we start: appended to, bounded in size, readable after they end."""

import shutil
from pathlib import Path
from typing import BinaryIO

BOUND_BYTES = 8 * 1024 * 1024


def open_log(path: Path) -> BinaryIO:
    """A file a child may write to for weeks: O_APPEND, so that `bound` can cut it while it is open."""
    path.touch(mode=0o600)
    return path.open("ab", buffering=0)


def bound(folder: Path, bound_bytes: int = BOUND_BYTES) -> None:
    """Keep one older piece of each log that has grown too long."""
    for path in folder.glob("*.log"):
        if path.stat().st_size > bound_bytes:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            with path.open("r+b") as file:
                file.truncate(0)


def tail(path: Path, lines: int, window_bytes: int = 64 * 1024) -> list[str]:
    """The last lines; empty when there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            start = max(0, file.tell() - window_bytes)
            file.seek(start)
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]


def keep_ray_session(session_logs: Path, kept: Path, *, each_bytes: int = 1024 * 1024, files: int = 60) -> None:
    """Copy the ends of a Ray session's logs, replacing those of the session before."""
    if not session_logs.is_dir():
        return
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(mode=0o700, parents=True)
    found = [path for path in session_logs.rglob("*") if path.is_file() and not path.is_symlink()]
    found = [path for path in found if path.stat().st_size > 0]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:files]:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - each_bytes))
            (kept / "-".join(path.relative_to(session_logs).parts)).write_bytes(file.read(each_bytes))
