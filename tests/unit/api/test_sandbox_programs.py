"""Output as one answer: however small the pieces a sandbox sends it in, it takes about as much memory as it is long."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.sandbox.door.cells import CellRequest
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.wire import DATA, DATA2
from serve_app.api.resources.sandboxes.files.endpoints import list_files
from serve_app.api.resources.sandboxes.programs import service
from serve_app.api.resources.sandboxes.programs.endpoints import read_process_output
from serve_app.api.resources.sandboxes.programs.schemas import MOST_OUTPUT_BYTES, ExecIn
from serve_app.core.services.requests import ClientGoneError
from tests.unit.actors.sandbox.peer import Inside, Json, Peer, scripted

_PIECES = 20_000


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with scripted() as inside:
        yield inside


@pytest.fixture
async def client(inside: Inside) -> AsyncIterator[SandboxClient]:
    client = inside.client()
    yield client
    await client.close()


@pytest.mark.parametrize("call", ["exec", "cell"])
async def test_output_in_small_pieces_is_kept_in_one(inside: Inside, client: SandboxClient, call: str) -> None:
    grown = 0

    async def drip(peer: Peer, request: Json) -> None:
        nonlocal grown
        if call == "exec":
            peer.event(event="started", pid=7)
        before = sys.getallocatedblocks()
        for _ in range(_PIECES // 100):
            for _ in range(50):
                peer.put(DATA, b"ab")
                peer.put(DATA2, b"cd")
            await peer.writer.drain()
        await asyncio.sleep(0.3)
        grown = sys.getallocatedblocks() - before
        peer.result(status="ok", exit_code=0, duration_s=0.1)

    inside.script = drip
    bound = 2 * _PIECES
    if call == "exec":
        done = await service.run(client, ExecIn(argv=["a"]), bound)
        written = (done.stdout, done.stderr)
    else:
        cell = await service.run_cell(client, CellRequest(code="1", output_bytes=bound))
        written = (cell.stdout, cell.stderr)
    assert written == ("ab" * (_PIECES // 2), "cd" * (_PIECES // 2))
    assert grown < _PIECES // 4


async def test_displays_are_weighed_as_what_they_become(inside: Inside, client: SandboxClient) -> None:
    """Of a few thousand bytes of brackets come a few hundred thousand of lists."""

    async def script(peer: Peer, request: Json) -> None:
        for _ in range(30):
            peer.event(event="display", data={"application/json": [[] for _ in range(10_000)]})
            await peer.writer.drain()
        peer.result(status="ok", duration_s=0.1)

    inside.script = script
    cell = await service.run_cell(client, CellRequest(code="1"))
    assert (len(cell.displays), cell.displays_cut) == (MOST_OUTPUT_BYTES // (64 * 10_000), True)


class Leaving:
    """A request whose client leaves as soon as somebody looks."""

    def __init__(self) -> None:
        self.scope: dict[str, object] = {"headers": []}

    async def receive(self) -> Json:
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}


@pytest.mark.parametrize("call", ["list", "attach"])
async def test_what_a_sandbox_never_ends_ends_with_its_client(inside: Inside, client: SandboxClient, call: str) -> None:
    async def script(peer: Peer, request: Json) -> None:
        while True:
            if request["op"] == "list":
                peer.event(event="entries", entries=[])
            else:
                peer.put(DATA, b"a")
            await peer.writer.drain()
            await asyncio.sleep(0.01)

    inside.script = script
    request: Any = Leaving()
    services: Any = None
    asked = list_files(request, ".", client) if call == "list" else read_process_output(request, "p1", client, services)
    with pytest.raises(ClientGoneError):
        await asked
    assert not client.is_busy
