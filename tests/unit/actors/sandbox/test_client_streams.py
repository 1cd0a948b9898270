"""Files, cells and terminals through the client, with supervisors that follow a script."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.sandbox.door.cells import CellRequest, Display, Picture
from actors.sandbox.door.running import Output
from actors.sandbox.door.terminal import TerminalRequest
from actors.sandbox.door.wire import DATA
from serve_app.core.errors import BodyTooLargeError, SandboxFullError, SandboxProtocolError
from tests.unit.actors.sandbox.peer import Inside, Json, Peer


async def test_files_are_read_and_written(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        match request["op"]:
            case "read":
                peer.event(event="file", size=9, mtime_ns=-5, mode=0o100644)
                peer.put(DATA, b"the ")
                peer.put(DATA, b"bytes")
                peer.result()
            case "write":
                peer.result(size=len(await peer.upload()))

    inside.script = script
    client = inside.client()
    async with client.read("x") as reading:
        assert (reading.size, reading.mtime_ns, reading.mode) == (9, -5, 0o644)
        assert b"".join([piece async for piece in reading]) == b"the bytes"
    assert await client.read_bytes("x", max_bytes=9) == b"the bytes"
    with pytest.raises(BodyTooLargeError):
        await client.read_bytes("x", max_bytes=8)
    with pytest.raises(SandboxProtocolError):
        async with client.read("x", limit=3) as reading:
            [piece async for piece in reading]

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(700_000)
        yield b""
        yield b"end"

    fresh = inside.client()
    assert await fresh.write("x", pieces()) == 700_003
    assert await fresh.write("x", b"") == 0
    await client.close()
    await fresh.close()


async def test_an_upload_that_is_refused_stops(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        await peer.frame()
        peer.error("full", "no room", limit="disk")
        await peer.gone()

    inside.script = script
    client = inside.client()
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(100_000)
            await asyncio.sleep(0)

    with pytest.raises(SandboxFullError) as caught:
        await asyncio.wait_for(client.write("x", endless()), 5)
    assert caught.value.details["limit"] == "disk"
    assert asked < 1000
    await client.close()


async def test_lists_are_streamed_checked_and_bounded(inside: Inside) -> None:
    entry = {"path": "a\udc80", "kind": "file", "size": 1, "mtime_ns": 2, "mode": 0o644}

    async def script(peer: Peer, request: Json) -> None:
        peer.event(event="entries", entries=[entry, {**entry, "kind": "link", "target": "b"}])
        peer.event(event="entries", entries=[{**entry, "kind": "socket"}])
        peer.result(cut=True)

    inside.script = script
    client = inside.client()
    async with client.list() as entries:
        found = [one async for one in entries]
        assert entries.cut
    assert [(one.path, one.kind, one.target) for one in found] == [
        ("a\udc80", "file", None),
        ("a\udc80", "link", "b"),
        ("a\udc80", "other", None),
    ]
    with pytest.raises(SandboxProtocolError):
        async with client.list(limit=2) as entries:
            [one async for one in entries]
    entry["path"] = "a\0b"
    with pytest.raises(SandboxProtocolError):
        async with inside.client().list() as entries:
            [one async for one in entries]
    await client.close()


async def test_cells_display(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        peer.put(DATA, b"hi")
        peer.event(event="display", data={"text/plain": "1", "application/json": [1], "text/x-evil": "no"})
        peer.event(event="display", size=5, mime="image/png")
        peer.put(DATA, b"12")
        peer.put(DATA, b"345")
        peer.result(status="error", duration_s=0.1, error={"name": "E", "message": "m", "trace": "t"})

    inside.script = script
    client = inside.client()
    async with client.cell(CellRequest(code="1")) as cell:
        pieces = [piece async for piece in cell]
        assert pieces == [
            Output("stdout", b"hi"),
            Display({"text/plain": "1", "application/json": [1]}),
            Picture("image/png", b"12345"),
        ]
        assert cell.result.error is not None
        assert (cell.result.status, cell.result.error.name) == ("error", "E")
    await client.close()


async def test_a_terminal_goes_both_ways(inside: Inside) -> None:
    async def script(peer: Peer, request: Json) -> None:
        assert (request["columns"], request["rows"]) == (100, 30)
        peer.event(event="started", pid=7)
        typed = await peer.frame()
        assert typed == (DATA, b"ls\n")
        assert (await peer.frame())[1] == b'{"do":"resize","columns":10,"rows":5}'
        peer.put(DATA, b"a b")
        peer.result(exit_code=0, signal=None)

    inside.script = script
    client = inside.client()
    async with client.terminal(TerminalRequest(columns=100, rows=30)) as terminal:
        await terminal.write(b"ls\n")
        terminal.resize(10, 5)
        assert [piece async for piece in terminal] == [b"a b"]
        assert terminal.result.exit_code == 0
    await client.close()
