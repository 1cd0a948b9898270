"""HTTP taken apart and put together: what smuggles, stalls or floods does not come through."""

import asyncio

import pytest

from actors.sandbox.egress.errors import BadProxyRequestError, HostFailedError
from actors.sandbox.egress.http1 import AnswerHead, Asked, Asking, RequestHead, asked_onward, passed_on
from serve_app.core.errors import TimedOutError
from tests.unit.actors.sandbox.egress.doubles import MemoryLink, pair


def asked(link: MemoryLink, *, idle_s: float = 5) -> Asked:
    return Asked(link, most_head_bytes=16 * 1024, idle_s=idle_s)


async def body_of(one: Asked) -> bytes:
    return b"".join([piece async for piece in one.body()])


async def test_requests_one_after_the_other_on_one_link() -> None:
    program, inside = pair()
    server = asked(inside)
    await program.write(
        b"POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc"
        b"GET http://a.example/2 HTTP/1.1\r\nHost: a.example\r\n\r\n"
    )
    first = await server.request(1, 1)
    assert first is not None
    assert (first.method, first.target, first.has_body) == ("POST", b"http://a.example/", True)
    assert await body_of(server) == b"abc"
    for _ in range(2):
        await server.answer(AnswerHead(200, b"OK", ((b"content-length", b"2"),)))
        await server.write(b"ok")
        await server.end()
        assert await server.is_ready_again()
        second = await server.request(0.01, 1)
    assert second is None
    inside.close()
    assert (await program.everything()).count(b"HTTP/1.1 200 OK\r\n") == 2


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\n\r\n",
        b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET  http://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a.example/\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000,
    ],
)
async def test_heads_that_could_be_read_in_two_ways(head: bytes) -> None:
    program, inside = pair()
    await program.write(head)
    with pytest.raises(BadProxyRequestError):
        await asked(inside).request(1, 1)


async def test_the_longer_framing_wins_and_the_other_is_gone() -> None:
    program, inside = pair()
    server = asked(inside)
    await program.write(
        b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n"
    )
    request = await server.request(1, 1)
    assert request is not None
    assert await body_of(server) == b"hello"
    onward = asked_onward(request, b"a.example", b"/")
    assert onward.headers == ((b"host", b"a.example"), (b"transfer-encoding", b"chunked"))


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"5\r\nhel", b"-5\r\nhello\r\n", b"5 ;\x00\r\nhello\r\n"])
async def test_bodies_that_break(chunk: bytes) -> None:
    program, inside = pair()
    server = asked(inside)
    await program.write(b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
    program.end()
    await server.request(1, 1)
    with pytest.raises(BadProxyRequestError):
        await body_of(server)


async def test_a_head_that_comes_byte_by_byte_is_given_up() -> None:
    program, inside = pair()

    async def drip() -> None:
        for byte in b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX: " + b"x" * 500:
            await program.write(bytes([byte]))
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    with pytest.raises(TimedOutError):
        await asked(inside).request(1, 0.2)
    dripping.cancel()


async def test_a_body_that_stops_is_given_up() -> None:
    program, inside = pair()
    server = asked(inside, idle_s=0.05)
    await program.write(b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    await server.request(1, 1)
    with pytest.raises(TimedOutError):
        await body_of(server)


async def test_a_flood_of_small_chunks_leaves_the_loop_to_others() -> None:
    program, inside = pair()
    server = asked(inside)
    await program.write(b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await program.write(b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n")
    await server.request(1, 1)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    assert await body_of(server) == b"x" * 2000
    other.cancel()
    assert turns > 50


async def test_headers_of_the_connection_stay_on_it() -> None:
    headers = (
        (b"connection", b"X-Private, close, Content-Length"),
        *(
            (name, b"x")
            for name in (b"x-private", b"te", b"upgrade", b"proxy-authorization", b"keep-alive", b"trailer")
        ),
        *((name, b"y") for name in (b"content-length", b"accept", b"x-public")),
    )
    assert passed_on(headers) == ((b"content-length", b"y"), (b"accept", b"y"), (b"x-public", b"y"))


async def test_the_host_is_the_one_that_was_judged() -> None:
    request = RequestHead(
        "GET", b"http://a.example/", ((b"host", b"evil.example"), (b"expect", b"100-continue")), False
    )
    assert asked_onward(request, b"a.example", b"/x").headers == ((b"host", b"a.example"),)


async def test_an_expectation_is_met_by_the_proxy() -> None:
    program, inside = pair()
    server = asked(inside)
    await program.write(
        b"PUT http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    await server.request(1, 1)
    body = asyncio.create_task(body_of(server))
    assert (await program.read()).startswith(b"HTTP/1.1 100 ")
    await program.write(b"ok")
    assert await body == b"ok"


async def question(answer: bytes) -> tuple[AnswerHead, bytes]:
    outside, host = pair()
    asking = Asking(outside, "a.example", most_head_bytes=16 * 1024, idle_s=0.2)
    await asking.ask(RequestHead("GET", b"/", ((b"host", b"a.example"),), has_body=False))
    await host.write(answer)
    host.end()
    head = await asking.answer()
    return head, b"".join([piece async for piece in asking.body()])


async def test_answers() -> None:
    head, body = await question(b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nok")
    assert (head.status, head.reason, body) == (200, b"Fine", b"ok")
    assert (await question(b"HTTP/1.0 200 OK\r\n\r\nto the end"))[1] == b"to the end"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ],
)
async def test_answers_that_are_none(answer: bytes) -> None:
    with pytest.raises(HostFailedError):
        await question(answer)


async def test_a_host_that_does_not_answer_is_given_up() -> None:
    outside, _host = pair()
    asking = Asking(outside, "a.example", most_head_bytes=16 * 1024, idle_s=0.05)
    await asking.ask(RequestHead("GET", b"/", ((b"host", b"a.example"),), has_body=False))
    with pytest.raises(TimedOutError):
        await asking.answer()
