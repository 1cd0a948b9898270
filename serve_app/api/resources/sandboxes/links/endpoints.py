"""`/api/v1/sandboxes/{sandbox_id}`: the WebSockets `terminal` and `ports/{port}`."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, WebSocket

from actors.sandbox.door.duplex import Duplex
from actors.sandbox.door.terminal import Terminal, TerminalRequest
from serve_app.api.deps import ServicesDep, TokenDep
from serve_app.api.resources.sandboxes.links.service import Link, unknown, whole
from serve_app.api.resources.sandboxes.opened import ClientDep
from serve_app.api.sse import is_allowed

router = APIRouter()
_MOST_COLUMNS, _MOST_ROWS = 1000, 1000


def _link(websocket: WebSocket, services: ServicesDep, token: str) -> Link:
    return Link(websocket, lambda: is_allowed(token, services.authenticator), services.clock)


@router.websocket("/terminal")
async def open_terminal(
    websocket: WebSocket,
    client: ClientDep,
    services: ServicesDep,
    token: TokenDep,
    columns: Annotated[int, Query(ge=1, le=_MOST_COLUMNS)] = 80,
    rows: Annotated[int, Query(ge=1, le=_MOST_ROWS)] = 24,
    shell: Annotated[str | None, Query(min_length=1, max_length=32_768)] = None,
    cwd: Annotated[str | None, Query(min_length=1, max_length=4096)] = None,
) -> None:
    """A terminal: bytes both ways, and `{"do": "resize", "columns", "rows"}`. It ends with `{"event": "exit",
    "exit_code", "signal"}`, and a client that leaves kills what runs in it."""
    argv = ("/bin/sh", "-c", shell) if shell else ()
    async with client.terminal(TerminalRequest(columns=columns, rows=rows, argv=argv, cwd=cwd)) as terminal:
        await terminal.begin()
        link = _link(websocket, services, token)
        await link.accept()
        await link.join(_typed(link, terminal), _shown(link, terminal))
        if terminal.has_ended:
            ended = terminal.result
            await link.end({"event": "exit", "exit_code": ended.exit_code, "signal": ended.signal})


async def _typed(link: Link, terminal: Terminal) -> None:
    async for message in link.received():
        if isinstance(message, bytes):
            await terminal.write(message)
        elif message.get("do") == "resize":
            terminal.resize(whole(message, "columns", _MOST_COLUMNS), whole(message, "rows", _MOST_ROWS))
        else:
            raise unknown(message)


async def _shown(link: Link, terminal: Terminal) -> None:
    async for data in terminal:
        await link.send(data)


@router.websocket("/ports/{port}")
async def open_port(
    websocket: WebSocket,
    client: ClientDep,
    services: ServicesDep,
    token: TokenDep,
    port: Annotated[int, Path(ge=1, le=65535)],
) -> None:
    """A TCP connection to a port in the sandbox: bytes both ways; `{"do": "end"}` says that no more will come."""
    async with await client.tunnel(port) as duplex:
        link = _link(websocket, services, token)
        await link.accept()
        await link.join(_sent(link, duplex), _answered(link, duplex))
        await link.end()


async def _sent(link: Link, duplex: Duplex) -> None:
    async for message in link.received():
        if isinstance(message, bytes):
            await duplex.write(message)
        elif message.get("do") == "end":
            duplex.end()
        else:
            raise unknown(message)


async def _answered(link: Link, duplex: Duplex) -> None:
    while data := await duplex.read():
        await link.send(data)
