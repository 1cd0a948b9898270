"""The short way into a replica, over raw sockets: what a proxy or a client may send, and what the application sees."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
import uvicorn

from serve_app.core.services.requests import ClientGoneError, read_body
from serve_app.core.telemetry.asgi import Receive, Scope, Send
from serve_app.router.front import FrontProtocol, Open, while_there, whole_body

ASK = b"POST /v1/%b HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n\r\n%b"


@dataclass
class App:
    """Answers with the body it got, in the manner that the path names."""

    ways: list[bool] = field(default_factory=list)
    """Whether each body came with its head."""
    left: list[str] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_there(self._answer(scope, receive, send), scope, receive)
        except ClientGoneError:
            self.left.append("gone")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = whole_body(scope, 1_000_000)
        self.ways.append(body is not None)
        if body is None:
            body = await read_body(scope, receive, 2_000_000)
        match scope["path"]:
            case "/v1/wait":
                self.started.set()
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    self.left.append("cancelled")
                    raise
            case "/v1/fail":
                raise ZeroDivisionError
            case "/v1/forget":
                return
        length = len(body) + {"/v1/short": 5, "/v1/long": -1}.get(scope["path"], 0)
        headers = [] if scope["path"] == "/v1/stream" else [(b"content-length", b"%d" % length)]
        if scope["path"] == "/v1/inject":
            headers.append((b"x", b"1\r\nset-cookie: a"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/v1/stream":
            step = max(4, len(body) // 50)
            for at in range(0, len(body), step):
                await send({"type": "http.response.body", "body": body[at : at + step], "more_body": True})
            body = b""
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app: App, **config: Any) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    front = cast(type[asyncio.Protocol], partial(FrontProtocol, admission=Open(app)))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", http=front, **config))
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3)
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" not in head.lower():
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return status, await asyncio.wait_for(reader.readexactly(length), 3)
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, body


async def test_many_on_one_connection_whole_and_in_pieces() -> None:
    app = App()
    async with serving(app) as port, connected(port) as (reader, writer):
        for path in (b"x", b"stream", b"x"):
            writer.write(ASK % (path, 11, b"hello there"))
            assert await answer(reader) == (200, b"hello there")
        writer.write((ASK % (b"x", 11, b""))[:30])
        await asyncio.sleep(0.05)
        writer.write((ASK % (b"x", 11, b""))[30:] + b"hello")
        await asyncio.sleep(0.05)
        writer.write(b" there")
        assert await answer(reader) == (200, b"hello there")
    assert app.ways == [True, True, True, False]


async def test_requests_behind_one_another_are_answered_in_order() -> None:
    async with serving(App()) as port, connected(port) as (reader, writer):
        writer.write(b"".join(ASK % (b"x", 1, b"%d" % number) for number in range(9)))
        assert [await answer(reader) for _ in range(9)] == [(200, b"%d" % number) for number in range(9)]


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST /v1/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
        b"POST /v1/x?a=b HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi",
        b"POST /v1/%78 HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi",
        b"PUT /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi",
    ],
)
async def test_other_requests_are_answered_all_the_same(request_head: bytes) -> None:
    async with serving(App()) as port, connected(port) as (reader, writer):
        writer.write(request_head)
        assert await answer(reader) == (200, b"hi")


async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async with serving(App()) as port, connected(port) as (reader, writer):
        writer.write(b"POST /v1/x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3)).startswith(b"HTTP/1.1 100")
        writer.write(b"hi")
        assert await answer(reader) == (200, b"hi")


async def test_a_large_body_and_a_slow_reader() -> None:
    body = bytes(range(256)) * 4_000
    async with serving(App()) as port, connected(port) as (reader, writer):
        for path in (b"x", b"stream"):
            writer.write(ASK % (path, len(body), body))
            await asyncio.sleep(0.3)
            assert await answer(reader) == (200, body)


async def test_work_ends_when_its_client_leaves() -> None:
    app = App()
    async with serving(app) as port:
        async with connected(port) as (_, writer):
            writer.write(ASK % (b"wait", 2, b"hi"))
            await asyncio.wait_for(app.started.wait(), 3)
        async with asyncio.timeout(2):
            while len(app.left) < 2:
                await asyncio.sleep(0.01)
    assert app.left == ["cancelled", "gone"]


async def test_an_application_that_fails_is_an_error_and_ends_the_connection() -> None:
    async with serving(App()) as port:
        for path in (b"fail", b"forget", b"inject", b"long"):
            async with connected(port) as (reader, writer):
                writer.write(ASK % (path, 2, b"hi"))
                if path == b"long":
                    assert await asyncio.wait_for(reader.read(), 3) == b""
                    continue
                assert (await answer(reader))[0] == 500
                assert await asyncio.wait_for(reader.read(), 3) == b""
        async with connected(port) as (reader, writer):
            writer.write(ASK % (b"short", 2, b"hi"))
            assert b"hi" not in await asyncio.wait_for(reader.read(), 3)


async def test_garbage_is_refused() -> None:
    async with serving(App()) as port, connected(port) as (reader, writer):
        writer.write(b"nonsense\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 3)).startswith(b"HTTP/1.1 400")


async def test_a_connection_is_kept_as_long_as_it_is_used() -> None:
    async with serving(App(), timeout_keep_alive=1) as port, connected(port) as (reader, writer):
        for _ in range(3):
            writer.write(ASK % (b"x", 2, b"hi"))
            assert await answer(reader) == (200, b"hi")
            await asyncio.sleep(0.5)
        began = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(reader.read(), 3) == b""
        assert 0.2 < asyncio.get_running_loop().time() - began < 1.5


async def test_connection_close_is_obeyed() -> None:
    async with serving(App()) as port, connected(port) as (reader, writer):
        writer.write((ASK % (b"x", 2, b"hi")).replace(b"host: here", b"connection: close"))
        assert await answer(reader) == (200, b"hi")
        assert await asyncio.wait_for(reader.read(), 3) == b""
