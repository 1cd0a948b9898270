"""The client against supervisors that want its memory or its time."""

import asyncio
import time

import pytest

from actors.sandbox.door.cells import CellRequest
from actors.sandbox.door.refusals import refusal
from actors.sandbox.door.running import ExecRequest
from actors.sandbox.door.wire import DATA
from serve_app.core.errors import NoSuchFileError, SandboxFullError, SandboxProtocolError, TimedOutError
from tests.unit.actors.sandbox.peer import Inside, Json, Peer


@pytest.mark.parametrize("limit", ["[]", "{}", "1", "null", '"wishes"'])
def test_a_limit_that_is_none_is_left_out(limit: str) -> None:
    payload = f'{{"code": "full", "message": "m", "details": {{"limit": {limit}}}}}'.encode()
    code, error = refusal(payload, NoSuchFileError)
    assert (code, type(error), error.details) == ("full", SandboxFullError, {"sandbox_code": "full"})


async def test_data_without_bytes_has_an_end(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        peer.event(event="started", pid=7)
        for _ in range(11):
            peer.put(DATA)

    inside.script = script
    client = inside.client()
    with pytest.raises(SandboxProtocolError):
        await client.run(["x"], output_bytes=10)
    await client.close()


async def test_a_detached_program_has_written_no_more_than_is_kept(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        for _ in range(9):
            peer.put(DATA, bytes(32 * 1024))
        peer.result(running=True)

    inside.script = script
    client = inside.client()

    async def read() -> None:
        async with client.attach("p1") as attached:
            async for _ in attached:
                continue

    with pytest.raises(SandboxProtocolError):
        await read()
    await client.close()


@pytest.mark.parametrize("is_cell", [False, True])
async def test_who_says_a_little_now_and_then_is_given_up(inside: Inside, is_cell: bool) -> None:
    async def script(peer: Peer, request: Json) -> None:
        if not is_cell:
            peer.event(event="started", pid=7)
        while True:
            peer.put(DATA, b".")
            await peer.writer.drain()
            await asyncio.sleep(0.01)

    inside.script = script
    client = inside.client()
    exchange = (
        client.cell(CellRequest(code="1", timeout_s=1))
        if is_cell
        else client.exec(ExecRequest(argv=["x"], timeout_s=1))
    )

    async def read() -> None:
        async with exchange as running:
            async for _ in running:
                exchange.patience_s = min(exchange.patience_s or 0, 0.2)

    began = time.monotonic()
    with pytest.raises(TimedOutError):
        await read()
    assert time.monotonic() - began < 5
    await client.close()
