"""The supervisor's control socket: JSON lines `{"op": "watch" | "status" | "stop"}` in, snapshots out."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from serve_app.embedded.board import Board, Snapshot

_ENDED = {"stopped", "failed"}


class ControlServer:
    """Serves watchers until the platform has stopped."""

    def __init__(self, path: Path, board: Board, snapshot: Callable[[], Snapshot], stop: Callable[[], None]) -> None:
        self._path = path
        self._board = board
        self._snapshot = snapshot
        self._stop = stop
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Let every watcher read the last snapshot, then hang up."""
        if self._server is not None:
            self._server.close()
        if self._serving:
            _, late = await asyncio.wait(self._serving, timeout=1.0)
            for task in late:
                task.cancel()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a connection's handler is a task
        self._serving.add(task)
        try:
            op = json.loads(await asyncio.wait_for(reader.readline(), 5.0) or b"{}").get("op")
            if op == "stop":
                self._stop()
            await self._send(writer, hand_over=op == "watch")
            hung_up = asyncio.create_task(reader.read())
            try:
                while op in {"watch", "stop"} and self._board.phase not in _ENDED and not hung_up.done():
                    change = asyncio.create_task(self._board.changed())
                    await asyncio.wait({change, hung_up}, return_when=asyncio.FIRST_COMPLETED)
                    change.cancel()
                    if not hung_up.done():
                        await self._send(writer, hand_over=op == "watch")
            finally:
                hung_up.cancel()
        except (ConnectionError, TimeoutError, ValueError, AttributeError):
            return  # a watcher that left or spoke something else is its own affair
        finally:
            self._serving.discard(task)
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, *, hand_over: bool) -> None:
        snapshot = self._snapshot()
        key = self._board.owner_api_key if hand_over and self._board.phase == "ready" else None
        writer.write(snapshot.model_copy(update={"owner_api_key": key}).model_dump_json().encode() + b"\n")
        await writer.drain()
        if key is not None:
            self._board.owner_api_key = None  # shown once


class ControlClient:
    """The command line's end of the socket; blocking, because a terminal has nothing else to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def talk(self, op: str, *, timeout_s: float | None = None) -> Iterator[Snapshot]:
        """Send one request and yield snapshots until the supervisor hangs up.

        Raises:
            ConnectionError: no supervisor listens.
            TimeoutError: it was silent for `timeout_s`.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            try:
                connection.connect(str(self._path))
            except FileNotFoundError as exc:
                raise ConnectionRefusedError(str(exc)) from exc
            connection.sendall(json.dumps({"op": op}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    try:
                        yield Snapshot.model_validate_json(line)
                    except ValidationError:
                        return  # the supervisor was killed in mid-line

    def status(self) -> Snapshot | None:
        """The state now; None when no supervisor listens."""
        try:
            return next(self.talk("status", timeout_s=5.0), None)
        except (ConnectionError, TimeoutError):
            return None
