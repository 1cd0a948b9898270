"""A node's relay: whoever proves a lease from another node is joined to the sandbox's door here."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from actors.sandbox.door.connection import Connection
from actors.sandbox.door.dialling import RELAY_GREETING, dial_unix
from actors.sandbox.door.duplex import Duplex, splice
from actors.sandbox.door.wire import ERROR, encode, frame
from serve_app.core.errors import AetherError

_HELLO_LIMIT_S = 5.0
_MOST_LINE_BYTES = 256
_MOST_CALLERS = 1024
_REFUSAL = frame(ERROR, encode({"code": "bad_hello", "message": "This node has no such lease."}))


class Relay:
    """`admits` tells the path of a door for a sandbox's id and its lease's token, compared in constant time, or None.

    Bind it to the cluster's own network only. Without `tls` tokens and contents pass in the clear.
    """

    def __init__(
        self,
        admits: Callable[[str, str], Path | None],
        *,
        tls: ssl.SSLContext | None = None,
        most_callers: int = _MOST_CALLERS,
        hello_limit_s: float = _HELLO_LIMIT_S,
    ) -> None:
        self._admits = admits
        self._tls = tls
        self._most_callers = most_callers
        self._hello_limit_s = hello_limit_s
        self._server: asyncio.Server | None = None
        self._callers: dict[asyncio.Task[None], Connection] = {}

    async def start(self, host: str, port: int = 0) -> str:
        """Listen; returns `host:port` as others dial it."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Caller(self._welcome),
            host,
            port,
            ssl=self._tls,
            ssl_handshake_timeout=self._hello_limit_s if self._tls else None,
        )
        bound = self._server.sockets[0].getsockname()[1]
        return f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"

    async def close(self) -> None:
        """No more callers, and an end to those there are."""
        if self._server:
            self._server.close()
        callers = dict(self._callers)
        for task, caller in callers.items():
            task.cancel()
            caller.abort()
        await asyncio.gather(*callers, return_exceptions=True)
        await asyncio.gather(*(caller.wait_closed() for caller in callers.values()))
        if self._server:
            await self._server.wait_closed()

    def _welcome(self, caller: Connection) -> None:
        if len(self._callers) >= self._most_callers:
            caller.abort()
            return
        task = asyncio.create_task(self._serve(caller), name="sandbox relay")
        self._callers[task] = caller
        task.add_done_callback(self._callers.pop)

    async def _serve(self, caller: Connection) -> None:
        try:
            with suppress(TimeoutError, AetherError):
                async with asyncio.timeout(self._hello_limit_s):
                    line, rest = await _read_line(caller)
                    path = self._path_for(line)
                    if path is None:
                        caller.write(_REFUSAL)
                        return
                    door = await dial_unix(str(path))()
                door.become_raw()
                door.write(rest)
                await splice(Duplex(caller), Duplex(door))
        finally:
            caller.close()

    def _path_for(self, line: bytes) -> Path | None:
        words = line.decode("ascii", "replace").split(" ")
        if len(words) != 4 or " ".join(words[:2]) != RELAY_GREETING:
            return None
        return self._admits(words[2], words[3])


class _Caller(Connection):
    """A connection that was accepted."""

    def __init__(self, welcome: Callable[[Connection], None]) -> None:
        super().__init__(is_raw=True)
        self._welcome = welcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # A node that vanished says no goodbye.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._welcome(self)


async def _read_line(caller: Connection) -> tuple[bytes, bytes]:
    """The first line, and what came behind it. An empty one: none came, or too long a one."""
    held = b""
    while b"\n" not in held:
        piece = await caller.read()
        held += piece
        if not piece or (len(held) > _MOST_LINE_BYTES and b"\n" not in held[: _MOST_LINE_BYTES + 1]):
            return b"", b""
    line, _, rest = held.partition(b"\n")
    return (line, rest) if len(line) <= _MOST_LINE_BYTES else (b"", b"")
