"""Ways to a sandbox's door: the Unix socket on its own node, or the relay of the node it is on."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

from actors.sandbox.door.connection import Connection
from serve_app.core.domain.ids import SandboxId
from serve_app.core.domain.sandboxes import Door
from serve_app.core.errors import SandboxLostError, UnavailableError
from serve_app.core.telemetry import get_logger

Dial = Callable[[], Awaitable[Connection]]
"""Makes one connection. Raises `SandboxLostError` when nobody answers there any more."""

RELAY_GREETING = "AETHER-RELAY 1"
_FULL_PAUSE_S, _LONGEST_FULL_PAUSE_S = 0.002, 0.05


def dial_unix(path: str) -> Dial:
    async def dial() -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await _connect(sock, path)
            _, connection = await asyncio.get_running_loop().create_unix_connection(Connection, sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection

    return dial


async def _connect(sock: socket.socket, path: str) -> None:
    """By hand: asyncio takes a full backlog (EAGAIN) for a connection that is being made, and it never is."""
    pause_s = _FULL_PAUSE_S
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_FULL_PAUSE_S)
        except OSError as exc:
            raise SandboxLostError("The sandbox is gone: its door does not answer.") from exc
        else:
            return


def dial_relay(address: str, sandbox_id: SandboxId, token: str, tls: ssl.SSLContext | None = None) -> Dial:
    """`address` is `host:port`, `token` the lease's."""
    host, _, port = address.rpartition(":")
    greeting = f"{RELAY_GREETING} {sandbox_id} {token}\n".encode("ascii")

    async def dial() -> Connection:
        try:
            transport, connection = await asyncio.get_running_loop().create_connection(
                Connection, host.strip("[]"), int(port), ssl=tls
            )
        except OSError as exc:
            raise UnavailableError("The sandbox's node cannot be reached.") from exc
        # A node that vanished says no goodbye.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.prefix = greeting
        return connection

    return dial


def dial_door(door: Door, sandbox_id: SandboxId, node_id: str, tls: ssl.SSLContext | None = None) -> Dial:
    """The shortest way from `node_id`. Raises `UnavailableError` when there is none."""
    if door.node_id == node_id:
        return dial_unix(door.path)
    if door.relay is None:
        get_logger().warning("node has no relay", node=door.node_id, sandbox_id=sandbox_id)
        raise UnavailableError("The sandbox is on another node, and that node has no relay.")
    return dial_relay(door.relay, sandbox_id, door.token, tls)
