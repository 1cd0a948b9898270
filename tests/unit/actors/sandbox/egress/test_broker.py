"""Calls to connectors: what is judged, what is added, and how long a secret is remembered."""

import asyncio

import pytest

from actors.sandbox.egress.broker import Broker, Prepared
from actors.sandbox.egress.errors import HostFailedError
from actors.sandbox.egress.http1 import AnswerHead, Headers, RequestHead
from actors.sandbox.egress.targets import Call, Target
from serve_app.core.domain.connectors import Connector, OpenedConnector
from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import EgressDeniedError
from tests.unit.actors.sandbox.egress.doubles import FixedConnectors, Hands

SECRET = b"sk-0123456789"
ORG = OrgId("org_1")
GIT = Connector("git", "https://api.example.org/v3", methods=("GET", "POST"), path_prefixes=("/repos", "/user/"))


def broker(connector: Connector = GIT) -> Broker:
    return Broker(FixedConnectors(OpenedConnector(connector, SECRET)), Hands())


async def prepared(
    path: bytes, method: str = "GET", headers: Headers = (), connector: Connector = GIT, *, is_chunked: bool = False
) -> Prepared:
    these = broker(connector)
    request = RequestHead(method, b"http://git.connector" + path, headers, has_body=is_chunked, is_chunked=is_chunked)
    try:
        return await these.prepare(ORG, Call("git", path), request)
    finally:
        these.close()


async def test_the_secret_is_added_and_nothing_of_the_callers_stands_beside_it() -> None:
    call = await prepared(
        b"/repos/x?y=1",
        headers=(
            (b"host", b"git.connector"),
            (b"authorization", b"Bearer mine"),
            (b"cookie", b"session=1"),
            (b"range", b"bytes=0-5"),
            (b"accept-encoding", b"gzip"),
            (b"x-http-method-override", b"DELETE"),
            (b"x-original-url", b"/admin"),
            (b"x-forwarded-for", b"127.0.0.1"),
            (b"accept", b"application/json"),
        ),
    )
    assert call.target == Target("api.example.org", 443)
    assert call.question.target == b"/v3/repos/x?y=1"
    assert call.question.headers == (
        (b"host", b"api.example.org"),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"Authorization", b"Bearer " + SECRET),
    )


async def test_a_connector_with_a_header_and_a_port_of_its_own() -> None:
    connector = Connector("git", "https://api.example.org:8443", header="X-Api-Key", value_prefix="")
    call = await prepared(b"/", headers=((b"x-api-key", b"mine"), (b"authorization", b"kept")), connector=connector)
    assert dict(call.question.headers) == {
        b"host": b"api.example.org:8443",
        b"authorization": b"kept",
        b"accept-encoding": b"identity",
        b"X-Api-Key": SECRET,
    }


@pytest.mark.parametrize(
    "path", [b"/repos", b"/repos/", b"/repos?x=/../admin", b"/repos/a%2Fb", b"/user/me", b"/repos/a;b"]
)
async def test_paths_below_a_prefix(path: bytes) -> None:
    assert (await prepared(path)).question.target == b"/v3" + path


@pytest.mark.parametrize(
    "path",
    [
        *(b"/", b"/admin", b"/repository", b"/user", b"/Repos", b"/%72epos", b"/repos%2Fx", b"/repos%3Fx"),
        *(
            b"/repos/../admin",
            b"/repos/..",
            b"/repos/./x",
            b"/./repos",
            b"/repos//x",
            b"//repos",
            b"/repos/%2e%2e/admin",
        ),
        *(b"/repos/.%2e/admin", b"/repos/%252e%252e/admin", b"/repos/%25252e%25252e/a", b"/repos/..%2fadmin"),
        *(b"/repos/..%5cadmin", b"/repos/..\\admin", b"/repos/x%2F..%2F..%2Fadmin", b"/repos/..;/admin"),
        *(b"/repos/..;a=b/admin", b"/repos/%2e%2e;x/admin", b"/repos/.%09./admin", b"/repos/%00", b"/repos/%0d%0aX: y"),
        *(b"/repos/%c0%ae%c0%ae/admin", b"/repos/%ff", b"/repos/%2F%2Fx", b"/repos/a%5c..%5cb"),
    ],
)
async def test_paths_that_are_not_or_might_not_be(path: bytes) -> None:
    with pytest.raises(EgressDeniedError) as caught:
        await prepared(path)
    assert caught.value.details["reason"] == "path"


async def test_methods() -> None:
    assert (await prepared(b"/repos", "POST", is_chunked=True)).question.is_chunked
    for method in ("DELETE", "get", "TRACE", "OPTIONS"):
        with pytest.raises(EgressDeniedError, match="Allowed: GET, POST"):
            await prepared(b"/repos", method)


async def test_an_unknown_connector() -> None:
    with pytest.raises(EgressDeniedError, match="there is no connector 'other'"):
        await broker().prepare(ORG, Call("other", b"/"), RequestHead("GET", b"/", (), has_body=False))


async def test_a_secret_is_remembered_for_half_a_minute() -> None:
    source, clock = FixedConnectors(OpenedConnector(GIT, SECRET)), Hands()
    these = Broker(source, clock)
    request = RequestHead("GET", b"/", (), has_body=False)
    for at, asked in ((0, 1), (29, 1), (31, 2)):
        clock.at = 1000.0 + at
        await these.prepare(ORG, Call("git", b"/repos"), request)
        assert source.asked == asked
    source.opened.clear()
    clock.at += 31
    with pytest.raises(EgressDeniedError):
        await these.prepare(ORG, Call("git", b"/repos"), request)
    these.close()
    assert not these._kept
    assert not these._timers


async def test_memory_of_connectors_is_bounded() -> None:
    these = broker()
    for number in range(1100):
        with pytest.raises(EgressDeniedError):
            await these.prepare(ORG, Call(f"n{number}", b"/"), RequestHead("GET", b"/", (), has_body=False))
    assert len(these._kept) == len(these._timers) == 1024
    these.close()
    await asyncio.sleep(0)


async def test_answers_are_cleaned() -> None:
    answer = (await prepared(b"/repos")).answer
    head = AnswerHead(
        302,
        b"Found",
        (
            (b"location", b"https://api.example.org/v3/repos/2"),
            (b"x-echo", b"Bearer " + SECRET),
            (b"set-cookie", b"session=1"),
            (b"connection", b"close"),
        ),
    )
    assert answer.headers(head) == (
        (b"location", b"http://git.connector/repos/2"),
        (b"x-echo", b"Bearer *************"),
    )
    elsewhere = AnswerHead(302, b"Found", ((b"location", b"https://api.example.org.evil.net/v3/"),))
    assert answer.headers(elsewhere) == elsewhere.headers
    assert answer.body(b"you sent " + SECRET[:5]) + answer.body(SECRET[5:] + b"!") + answer.rest() == (
        b"you sent *************!"
    )


async def test_a_compressed_answer_could_hide_the_secret() -> None:
    answer = (await prepared(b"/repos")).answer
    with pytest.raises(HostFailedError):
        answer.headers(AnswerHead(200, b"OK", ((b"content-encoding", b"gzip"),)))
    assert answer.headers(AnswerHead(200, b"OK", ((b"content-encoding", b"identity"),)))
