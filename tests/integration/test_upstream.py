"""What providers may send over a real socket, and what is made of it."""

import asyncio
import gzip
import struct
from collections.abc import AsyncIterator

import pytest

from serve_app.core.errors import ProviderError
from serve_app.router.upstream import Upstream
from tests.doubles.scripted import BOUNDS, OK, Provider, Script, answer, ask, keeping, playing, saying, streamed


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream(BOUNDS)
    yield made
    await made.close()


async def test_a_request_says_what_it_must_and_a_connection_serves_many(upstream: Upstream) -> None:
    async with playing(keeping(OK, OK, OK)) as provider:
        for _ in range(3):
            assert await answer(upstream, provider.url) == b"{}"
    assert provider.connections == 1
    head, _, body = provider.asked[0].partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /v1/x http/1.1"
    assert {b"authorization: bearer sk", b"content-length: 2", b"accept-encoding: identity"} <= set(lines)
    assert b"host: 127.0.0.1:%d" % provider.port in lines
    assert body == b"{}"


async def test_status_and_headers_are_told(upstream: Upstream) -> None:
    said = b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nX-A: 1\r\nx-a: 2\r\ncontent-length: 0\r\n\r\n"
    async with playing(saying(said)) as provider:
        incoming = await ask(upstream, provider.url)
        assert incoming.status == 429
        assert incoming.headers["retry-after"] == "3"
        assert incoming.headers["x-a"] == "1"
        assert await incoming.whole() == b""
        incoming.close()


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nx-t: 1\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)  # fmt: skip
async def test_every_way_an_answer_may_be_framed(upstream: Upstream, said: bytes, body: bytes) -> None:
    async with playing(saying(said)) as provider:
        assert await answer(upstream, provider.url) == body
    async with playing(saying(*(said[at : at + 1] for at in range(len(said))), pause_s=0)) as provider:
        assert await answer(upstream, provider.url) == body


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x01\x02 garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 twenty OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: ",
    ],
)
async def test_what_is_no_http_is_an_error_of_the_provider(upstream: Upstream, said: bytes) -> None:
    async with playing(saying(said)) as provider:
        with pytest.raises(ProviderError):
            await answer(upstream, provider.url)


async def test_a_long_head_is_refused_when_it_comes_whole(upstream: Upstream) -> None:
    said = OK.replace(b"\r\n\r\n", b"\r\nx: " + b"a" * 100_000 + b"\r\n\r\n")
    async with playing(saying(said)) as provider:
        with pytest.raises(ProviderError, match="too long"):
            await answer(upstream, provider.url)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 " + b"O" * 65_536] * 640,
        [b"HTTP/1.1 200 OK\r\n", *[b"x-flood: yes\r\n" * 4_000] * 640],
        [b"HTTP/1.1 200 OK\r\nx: ", *[b"a" * 65_536] * 640],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000] * 640,
    ],
)
async def test_a_head_without_end_is_cut_off_early(upstream: Upstream, pieces: list[bytes]) -> None:
    sent = 0

    def of(provider: Provider) -> Script:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await provider.read_request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)

        return play

    async with playing(of) as provider:
        with pytest.raises(ProviderError):
            await answer(upstream, provider.url)
        await asyncio.sleep(0.05)
    # What the sockets hold between the two, and no more.
    assert sent < 12 * 2**20


@pytest.mark.parametrize(
    "rest",
    [
        b"zz\r\nabc\r\n",
        b"3\r\nabcdef\r\n",
        b"ffffffffffffffffff\r\nabc",
        b"3\r\nab",
        b"0\r\n" + b"t: " + b"x" * 400_000,
    ],
)
async def test_broken_chunks_come_after_what_was_whole(upstream: Upstream, rest: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    async with playing(saying(head, rest)) as provider:
        found, error = await streamed(await ask(upstream, provider.url))
    assert found.startswith(b"first")
    assert isinstance(error, ProviderError)


async def test_lines_of_chunks_without_end_are_cut_off(upstream: Upstream) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;"
    async with playing(saying(head, *[b"e" * 65_536] * 100, pause_s=0)) as provider:
        found, error = await streamed(await ask(upstream, provider.url))
    assert (found, type(error)) == (b"", ProviderError)


async def test_a_truncated_body_is_told(upstream: Upstream) -> None:
    async with playing(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")) as provider:
        with pytest.raises(ProviderError, match="broke"):
            await answer(upstream, provider.url)
        found, error = await streamed(await ask(upstream, provider.url))
    assert (found, type(error)) == (b"half", ProviderError)


async def test_what_came_before_a_reset_is_given_before_the_error(upstream: Upstream) -> None:
    def of(provider: Provider) -> Script:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await provider.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nall of this came")
            await writer.drain()
            await asyncio.sleep(0.05)
            # Closing with nothing left to say and this option is a reset.
            writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))

        return play

    async with playing(of) as provider:
        incoming = await ask(upstream, provider.url)
        await asyncio.sleep(0.2)
        found, error = await streamed(incoming)
    assert found == b"all of this came"
    assert isinstance(error, ProviderError)


async def test_compressed_answers_are_opened_within_the_bound(upstream: Upstream) -> None:
    def said(body: bytes, encoding: bytes = b"gzip") -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: %d\r\n\r\n%b" % (encoding, len(body), body)

    async with playing(saying(said(gzip.compress(b"hello")))) as provider:
        assert await answer(upstream, provider.url) == b"hello"
    async with playing(saying(said(gzip.compress(bytes(2**26))))) as provider:
        with pytest.raises(ProviderError, match="too long"):
            await answer(upstream, provider.url)
    async with playing(saying(said(b"no gzip at all"))) as provider:
        with pytest.raises(ProviderError, match="broken"):
            await answer(upstream, provider.url)
    async with playing(saying(said(b"x", b"br"))) as provider:
        with pytest.raises(ProviderError, match="not asked for"):
            await answer(upstream, provider.url)
