"""WebSockets into sandboxes, with a client over a real server: who gets in, terminals, ports."""

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from serve_app.api.edge import is_own_origin
from serve_app.core.domain.ids import SandboxId, new_sandbox_id
from tests.apis import BASE_URL
from tests.conftest import Tenant
from tests.sandbox_apis import SandboxWorld


@pytest.fixture
async def sandbox_id(world: SandboxWorld, tenant: Tenant) -> SandboxId:
    return (await world.running.front.create(tenant.caller, None)).id


def opened(place: str, sandbox_id: str, below: str, key: str | None, **more: Any) -> connect:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = f"ws://{place}/api/v1/sandboxes/{sandbox_id}/{below}"
    return connect(url, additional_headers=headers, proxy=None, max_size=None, **more)


async def refused(opening: connect) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as caught:
        async with opening:
            pass
    response = caught.value.response
    body = json.loads(response.body)
    assert response.headers["content-type"] == "application/problem+json"
    assert body["request_id"] == response.headers["x-request-id"]
    return response.status_code, body


async def until(link: ClientConnection, wanted: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(10):
        while wanted not in seen:
            piece = await link.recv()
            assert isinstance(piece, bytes), piece
            seen += piece
    return seen


async def closing(link: ClientConnection) -> tuple[int | None, str]:
    """How the server ends it; iterating would keep quiet about some ends."""
    async with asyncio.timeout(10):
        while True:
            try:
                await link.recv()
            except ConnectionClosed:
                return link.close_code, link.close_reason or ""


async def test_nobody_gets_in_without_a_key(
    place: str, sandbox_id: SandboxId, tenant: Tenant, other_tenant: Tenant
) -> None:
    for below in ("terminal", "ports/80"):
        assert (await refused(opened(place, sandbox_id, below, None)))[0] == 401
        assert (await refused(opened(place, sandbox_id, below, "aek_00000000_wrong")))[0] == 401
        assert (await refused(opened(place, sandbox_id, below, other_tenant.key)))[0] == 404
        assert (await refused(opened(place, sandbox_id, below + "?token=" + tenant.key, None)))[0] == 401
        assert (await refused(opened(place, new_sandbox_id(), below, tenant.key)))[0] == 404
    protocols = [Subprotocol("aether.v1"), Subprotocol("bearer.aek_00000000_wrong")]
    assert (await refused(opened(place, sandbox_id, "terminal", None, subprotocols=protocols)))[0] == 401


async def test_a_page_shows_its_key_as_a_subprotocol(place: str, sandbox_id: SandboxId, tenant: Tenant) -> None:
    protocols = [Subprotocol("aether.v1"), Subprotocol(f"bearer.{tenant.key}")]
    async with opened(place, sandbox_id, "terminal", None, subprotocols=protocols, origin=BASE_URL) as link:
        assert link.subprotocol == "aether.v1"
        await link.send(b"echo $((6*7))\n")
        await until(link, b"42")
    status, body = await refused(opened(place, sandbox_id, "terminal", None, subprotocols=protocols[1:]))
    assert (status, body["code"]) == (422, "invalid_request")
    assert tenant.key not in json.dumps(body)


async def test_other_pages_are_kept_out(place: str, sandbox_id: SandboxId, tenant: Tenant) -> None:
    for origin in ("https://evil.example", "http://cre-1.localhost:8000", "null", "http://localhost:8001"):
        assert (await refused(opened(place, sandbox_id, "terminal", tenant.key, origin=origin)))[0] == 403


async def test_a_preview_has_no_websockets(place: str, sandbox_id: SandboxId, tenant: Tenant) -> None:
    url = f"ws://preview.localhost/api/v1/sandboxes/{sandbox_id}/terminal"
    host, _, port = place.partition(":")
    headers = {"authorization": f"Bearer {tenant.key}"}
    opening = connect(url, additional_headers=headers, proxy=None, host=host, port=int(port))
    assert (await refused(opening))[0] == 404


async def test_a_terminal(place: str, sandbox_id: SandboxId, tenant: Tenant) -> None:
    async with opened(place, sandbox_id, "terminal?columns=100&rows=30", tenant.key) as link:
        await link.send(b"stty size; tty\n")
        assert b"/dev/pts/" in await until(link, b"/dev/pts/")
        await link.send(json.dumps({"do": "resize", "columns": 133, "rows": 44}))
        await link.send(b"stty size\n")
        await until(link, b"44 133")
        await link.send(b"echo rea''dy; cat\n")
        await until(link, b"ready")
        # Ctrl-C drops what was typed before it: `cat` has to be there, and then the shell again.
        await asyncio.sleep(0.3)
        await link.send(b"\x03")
        await until(link, b"$ ")
        await link.send(b"echo in''terrupted\n")
        await until(link, b"interrupted")
        await link.send(b"exit 7\n")
        async with asyncio.timeout(10):
            while isinstance(last := await link.recv(), bytes):
                continue
        assert json.loads(last) == {"event": "exit", "exit_code": 7, "signal": None}
        assert await closing(link) == (1000, "")


async def test_much_output_and_a_slow_reader(place: str, sandbox_id: SandboxId, tenant: Tenant) -> None:
    size = 20_000_000
    shell = f"head -c {size} /dev/zero; echo end"
    async with opened(place, sandbox_id, f"terminal?shell={shell.replace(' ', '%20')}", tenant.key) as link:
        await asyncio.sleep(0.5)
        got = 0
        async with asyncio.timeout(30):
            while isinstance(piece := await link.recv(), bytes):
                got += len(piece)
        assert got == size + len("end\r\n")


@pytest.mark.parametrize(
    "message", ["no json", "[]", '{"do": "dance"}', '{"do": "resize", "columns": 0, "rows": 1}', '{"do": "resize"}']
)
async def test_bad_controls_end_it(place: str, sandbox_id: SandboxId, tenant: Tenant, message: str) -> None:
    async with opened(place, sandbox_id, "terminal", tenant.key) as link:
        await link.send(message)
        assert await closing(link) == (4422, "invalid_request")
    async with opened(place, sandbox_id, "terminal", tenant.key) as link:
        await link.send(bytes(1024**2 + 1))
        assert await closing(link) == (4413, "body_too_large")


async def test_what_cannot_be_opened_is_refused_before_it_is(place: str, sandbox_id: SandboxId, tenant: Tenant) -> None:
    for below in ("terminal?columns=0", "terminal?rows=x", "ports/0", "ports/99999"):
        status, body = await refused(opened(place, sandbox_id, below, tenant.key))
        assert (status, body["code"]) == (422, "invalid_request")
    status, body = await refused(opened(place, sandbox_id, "terminal?cwd=/etc/passwd", tenant.key))
    assert status == 422
    status, body = await refused(opened(place, sandbox_id, "ports/9", tenant.key))
    assert (status, body["code"]) == (409, "conflict")


async def test_a_terminal_that_is_left_leaves_nothing(
    place: str, world: SandboxWorld, sandbox_id: SandboxId, tenant: Tenant
) -> None:
    client = await world.running.front.client(tenant.caller, sandbox_id)
    before = len(await client.processes())
    async with opened(place, sandbox_id, "terminal", tenant.key) as link:
        await link.send(b"sleep 71 & setsid sleep 72 & echo rea''dy\n")
        await until(link, b"ready")
        link.transport.abort()
    async with asyncio.timeout(10):
        while len(await client.processes()) > before:
            await asyncio.sleep(0.05)
    assert not client.is_busy


async def test_an_ended_sandbox_ends_its_terminals(
    place: str, world: SandboxWorld, sandbox_id: SandboxId, tenant: Tenant
) -> None:
    async with opened(place, sandbox_id, "terminal", tenant.key) as link:
        await link.send(b"echo rea''dy\n")
        await until(link, b"ready")
        await world.running.front.delete(tenant.caller, sandbox_id)
        code, reason = await closing(link)
    assert (code, reason) == (4503, "sandbox_lost")
    assert (await refused(opened(place, sandbox_id, "terminal", tenant.key)))[0] == 410


async def test_ports(place: str, world: SandboxWorld, sandbox_id: SandboxId, tenant: Tenant) -> None:
    client = await world.running.front.client(tenant.caller, sandbox_id)
    code = (
        "import socket\ns = socket.create_server(('127.0.0.1', 8200))\nwhile True:\n c, _ = s.accept()\n d = b''\n"
        " while p := c.recv(65536): d += p\n c.sendall(d[::-1])\n c.close()"
    )
    await client.start(["python3", "-c", code])
    async with asyncio.timeout(20):
        while not any(one.port == 8200 for one in await client.ports()):
            await asyncio.sleep(0.05)
    data = bytes(range(256)) * 3_000
    async with opened(place, sandbox_id, "ports/8200", tenant.key) as link:
        await link.send(data[:300_000])
        await link.send(data[300_000:])
        await link.send(json.dumps({"do": "end"}))
        got = b""
        async with asyncio.timeout(10):
            async for piece in link:
                assert isinstance(piece, bytes)
                got += piece
        assert got == data[::-1]
        assert link.close_code == 1000
    async with asyncio.timeout(5):
        while client.is_busy:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("origin", "base_url", "is_own"),
    [
        ("http://localhost:8000", "http://localhost:8000", True),
        ("http://127.0.0.1:8000", "http://localhost:8000", True),
        ("https://aether.example", "https://aether.example/", True),
        ("http://aether.example", "https://aether.example", False),
        ("https://evil.example", "https://aether.example", False),
        ("https://aether.example.evil.example", "https://aether.example", False),
        ("http://localhost:8001", "http://localhost:8000", False),
        ("http://cre-x.localhost:8000", "http://localhost:8000", False),
        ("http://localhost:x", "http://localhost:8000", False),
        ("null", "http://localhost:8000", False),
        ("", "http://localhost:8000", False),
    ],
)
def test_own_origins(origin: str, base_url: str, is_own: bool) -> None:
    assert is_own_origin(origin, base_url) is is_own
