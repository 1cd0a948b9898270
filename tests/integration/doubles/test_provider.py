"""The provider double does over a real socket what a test scripted, to the byte."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.doubles.answers import (
    Answer,
    Body,
    Ending,
    Endless,
    Framing,
    Garbage,
    HangUp,
    HugeLine,
    Json,
    Refusal,
    Silence,
    Split,
    Sse,
    at,
    events,
    every,
    lines,
    whole,
)
from tests.doubles.provider import Double

STREAM = b'data: {"n":1}\n\ndata: {"n":"\xc3\xa4"}\n\ndata: [DONE]\n\n'


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    async with Double() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
        yield session


async def test_it_keeps_each_request_exactly(double: Double, client: aiohttp.ClientSession) -> None:
    double.plays(Json({"a": "ä"}), Refusal(429, retry_after="2", x_ratelimit_remaining_requests="0"))
    body = b'{"model" : "m",\n "unknown":1}'
    async with client.post(f"{double.url}/v1/chat/completions?x=1", data=body, headers={"X-Odd": "1"}) as answer:
        assert answer.status == 200
        assert await answer.read() == '{"a":"ä"}'.encode()
    for _ in range(2):  # the last answer repeats
        async with client.post(f"{double.url}/v1/chat/completions", data=_chunks(body)) as answer:
            assert answer.status == 429
            assert answer.headers["retry-after"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    first, second, _ = double.requests
    assert (first.method, first.path, first.query) == ("POST", "/v1/chat/completions", "x=1")
    assert first.body == second.body == body
    assert ("X-Odd", "1") in first.header_lines
    assert first.headers["x-odd"] == "1"
    assert double.connections == 1


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body[:5]
    yield body[5:]


@pytest.mark.parametrize("split", [whole, lines, events, every(1), every(7), at(3, 20)])
async def test_however_it_is_split_the_stream_arrives_whole(
    double: Double, client: aiohttp.ClientSession, split: Split
) -> None:
    double.plays(Sse(STREAM, split=split))
    async with client.get(double.url) as answer:
        assert answer.content_type == "text/event-stream"
        pieces = [piece async for piece, ended in answer.content.iter_chunks() if ended]
    assert pieces == list(split(STREAM))
    assert double.requests[0].sent_bytes == len(STREAM)


@pytest.mark.parametrize("ending", [Ending.CUT, Ending.RESET])
@pytest.mark.parametrize("until", [b"data: [DONE]", 20])
async def test_a_stream_can_end_in_the_middle(
    double: Double, client: aiohttp.ClientSession, until: int | bytes, ending: Ending
) -> None:
    double.plays(Sse(STREAM, until=until, ending=ending))
    async with client.get(double.url) as answer:
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await answer.read()
    kept = until if isinstance(until, int) else STREAM.index(until)
    assert double.requests[0].sent_bytes == kept


async def test_a_truncated_stream_can_end_as_if_all_were_well(double: Double, client: aiohttp.ClientSession) -> None:
    double.plays(Sse(STREAM, until=b"data: [DONE]"))
    async with client.get(double.url) as answer:
        assert await answer.read() == STREAM.removesuffix(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (HangUp(), aiohttp.ServerDisconnectedError),
        (HangUp(ending=Ending.RESET), aiohttp.ClientOSError),
        (Garbage(), aiohttp.ClientResponseError),
    ],
)
async def test_a_connection_can_end_before_the_answer(
    double: Double, client: aiohttp.ClientSession, answer: Answer, error: type[Exception]
) -> None:
    double.plays(answer)
    with pytest.raises(error):
        await client.post(double.url, data=b"x")


@pytest.mark.parametrize("answer", [Silence(), Sse(STREAM, until=20, ending=Ending.STALL), Endless()])
async def test_it_notices_the_caller_leaving(double: Double, answer: Answer) -> None:
    double.plays(answer)
    async with aiohttp.ClientSession() as session:
        call = asyncio.create_task(_read(session, double.url))
        request = await double.received()
        await asyncio.sleep(0.05)
        assert double.in_flight == 1
        call.cancel()
    async with asyncio.timeout(5):
        await request.left.wait()
        await request.answered.wait()
    assert double.in_flight == 0


async def _read(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(url) as answer:
        await answer.read()


async def test_who_does_not_read_is_not_sent_more(double: Double, client: aiohttp.ClientSession) -> None:
    double.plays(HugeLine())
    async with client.get(double.url) as answer:
        await asyncio.sleep(0.2)
        assert 0 < double.requests[0].sent_bytes < 20_000_000
        assert len(await answer.read()) > 40_000_000


async def test_a_declared_length_can_be_a_lie(double: Double, client: aiohttp.ClientSession) -> None:
    double.plays(Body(b"12345678", headers={"content-length": "4"}), Body(b"1234", headers={"content-length": "8"}))
    with pytest.raises(aiohttp.ClientResponseError):
        await client.get(double.url)
    async with client.get(double.url) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_framing_by_closing_and_another_content_type(double: Double, client: aiohttp.ClientSession) -> None:
    double.plays(Sse(STREAM, framing=Framing.CLOSE, content_type="text/html"))
    async with client.get(double.url) as answer:
        assert answer.content_type == "text/html"
        assert await answer.read() == STREAM


async def test_scripts_by_path_and_by_request(double: Double, client: aiohttp.ClientSession) -> None:
    double.chooses(lambda request: Json(request.json()))
    double.plays(Json([]), on="/embeddings")
    async with client.post(f"{double.url}/v1/embeddings", json={}) as answer:
        assert await answer.json() == []
    async with client.post(f"{double.url}/v1/chat/completions", json={"a": 1}) as answer:
        assert await answer.json() == {"a": 1}


async def test_an_unscripted_request_is_refused(double: Double, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{double.url}/nowhere") as answer:
        assert answer.status == 501
        assert "/nowhere" in await answer.text()
