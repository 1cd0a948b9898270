"""The line to Redis that every call waits for: answers in order, and what happens when there are none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from serve_app.core.errors import MisconfiguredError, UnavailableError
from serve_app.core.stores.limits.line import Line, UnknownScriptError
from serve_app.core.stores.redis import attach, greeting
from tests.conftest import Server

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def line_to(url: str, timeout_s: float = 2.0) -> AsyncIterator[Line]:
    line = Line(partial(attach, url), greeting(url), timeout_s)
    try:
        yield line
    finally:
        await line.close()


@asynccontextmanager
async def playing(script: Script) -> AsyncIterator[str]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()


async def test_many_at_once_get_their_own_answers(valkey: Server) -> None:
    async with line_to(valkey.url) as line:
        found = await asyncio.gather(*(line.call("ECHO", f"word {number}") for number in range(200)))
        assert found == [b"word %d" % number for number in range(200)]
        assert await line.call("EVAL", "return {1, 'two', {3}}", 0) == [1, b"two", [3]]


async def test_one_that_leaves_takes_nobodys_answer(valkey: Server) -> None:
    async with line_to(valkey.url) as line:
        await line.call("PING")
        first = asyncio.create_task(line.call("ECHO", "first"))
        second = asyncio.create_task(line.call("ECHO", "second"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"second"
        assert first.cancelled()


async def test_errors_of_the_server(valkey: Server) -> None:
    async with line_to(valkey.url) as line:
        with pytest.raises(UnknownScriptError):
            await line.call("EVALSHA", "0" * 40, 0)
        with pytest.raises(UnavailableError):
            await line.call("NO-SUCH-COMMAND")
        assert await line.call("PING") == b"PONG"


async def test_the_login_comes_first_and_a_refused_one_is_told() -> None:
    said: list[bytes] = []

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.read(1000))
        writer.write(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)

    async with playing(refusing) as url, line_to(url.replace("//", "//user:p%40ss@").replace("/0", "/3")) as line:
        with pytest.raises(MisconfiguredError, match="AETHER_REDIS_URL"):
            await line.call("PING")
    assert said == [b"*3\r\n$4\r\nAUTH\r\n$4\r\nuser\r\n$4\r\np@ss\r\n"]
    assert greeting("redis://:secret@h/3") == [("AUTH", "secret"), ("SELECT", "3")]
    assert greeting("unix:///run/valkey.sock") == []


async def test_a_lost_connection_fails_what_waits_and_the_next_call_has_a_new_one() -> None:
    connections = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1000)
        if connections > 1:
            writer.write(b"+PONG\r\n")
            await writer.drain()
            await reader.read()

    async with playing(once) as url, line_to(url) as line:
        with pytest.raises(UnavailableError):
            await line.call("PING")
        assert await line.call("PING") == b"PONG"
    assert connections == 2


@pytest.mark.parametrize("said", [b"", b"*3\r\n+half", b"what?\r\n"])
async def test_silence_and_nonsense_end_in_time(said: bytes) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(said)
        await asyncio.sleep(2)

    async with playing(play) as url, line_to(url, timeout_s=0.3) as line, asyncio.timeout(1.5):
        with pytest.raises(UnavailableError):
            await line.call("PING")


async def test_what_nobody_asked_for_ends_the_connection() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"+PONG\r\n+forged\r\n")
        await writer.drain()
        await reader.read(1000)
        writer.write(b"+PONG\r\n")
        await asyncio.sleep(0.1)

    async with playing(play) as url, line_to(url) as line:
        assert await line.call("PING") == b"PONG"
        await asyncio.sleep(0.05)
        assert await line.call("PING") == b"PONG"


async def test_nobody_there() -> None:
    async with line_to("unix:///nowhere/at/all.sock") as line:
        with pytest.raises(UnavailableError, match="reached"):
            await line.call("PING")
