"""The application over bare ASGI: routes, statuses, OpenAI's error shape, streams and their ends."""

import asyncio
from typing import Any

import orjson
import pytest

from serve_app.core.errors import ContextLengthError, EngineError, OverloadedError
from tests.unit.router.fakes import CALLER, TICKETS, Client, KnownKeys, SaidProvider, router

ASK: dict[str, Any] = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "hi"}]}
PIECES = [b'data: {"a":1}\n\n', b'data: {"a":2}\n\ndata: [DONE]\n\n']


def client(provider: SaidProvider | None = None, token: str | None = "", **options: Any) -> Client:
    keys = KnownKeys()
    return Client(router(provider or SaidProvider(PIECES), keys, **options), keys.key.text if token == "" else token)


@pytest.mark.parametrize(
    ("path", "root_path"), [("/v1/models", ""), ("/v1/models", "/v1"), ("/models", "/v1"), ("/v1/models/", "")]
)
async def test_models_are_listed_however_the_server_mounts_us(path: str, root_path: str) -> None:
    answer = await client().call("GET", path, root_path=root_path)
    assert answer.status == 200
    listed = orjson.loads(answer.body)
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["smollm2-135m"]
    assert answer.headers["x-request-id"].startswith("req_")


async def test_one_model() -> None:
    assert orjson.loads((await client().call("GET", "/v1/models/smollm2-135m")).body)["object"] == "model"
    answer = await client().call("GET", "/v1/models/gpt-9")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/v1/models", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/models/smollm2-135m", 405, "method_not_allowed"),
    ],
)
async def test_wrong_addresses(method: str, path: str, status: int, code: str) -> None:
    answer = await client().call(method, path)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, "invalid_request_error")
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("token", [None, "aek_bad_key", "sk-123", "aet_x.y"])
async def test_without_a_good_key(token: str | None) -> None:
    for answer in (await client(token=token).post(**ASK), await client(token=token).call("GET", "/v1/models")):
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


async def test_a_ticket_for_this_edge_is_taken_and_another_is_not() -> None:
    good = TICKETS.issue(CALLER, "models", 60)
    assert (await client(token=good).post(**ASK)).status == 200
    other = TICKETS.issue(CALLER, "previews", 60)
    assert (await client(token=other).post(**ASK)).status == 401


async def test_a_stream_is_relayed_byte_for_byte() -> None:
    provider = SaidProvider(PIECES)
    answer = await client(provider).post(**ASK, stream=True)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body == b"".join(PIECES)
    assert provider.requests == [{**ASK, "stream": True}]


async def test_auto_is_the_default_model() -> None:
    provider = SaidProvider([b"{}"])
    answer = await client(provider).post(**{**ASK, "model": "auto"})
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"{}", "2")
    assert provider.requests[0]["model"] == "smollm2-135m"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (ContextLengthError("long", param="messages"), 400, "context_length_exceeded", "invalid_request_error"),
        (OverloadedError("full"), 503, "overloaded", "server_error"),
        (EngineError("broken"), 500, "engine_failed", "server_error"),
        (RuntimeError("a secret"), 500, "server_error", "server_error"),
    ],
)
async def test_an_error_before_the_first_byte(
    stream: bool, error: Exception, status: int, code: str, kind: str
) -> None:
    answer = await client(SaidProvider(error=error)).post(**ASK, stream=stream)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, kind)
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert b"secret" not in answer.body
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize(("error", "code"), [(EngineError("broken"), "engine_failed"), (OSError("x"), "server_error")])
async def test_an_error_after_the_first_byte_is_the_last_event(error: Exception, code: str) -> None:
    answer = await client(SaidProvider(PIECES[:1], error)).post(**ASK, stream=True)
    assert answer.status == 200
    first, last = answer.body.removesuffix(b"\n\n").split(b"\n\n")
    assert first + b"\n\n" == PIECES[0]
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == code


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_provider(stream: bool) -> None:
    provider = SaidProvider(PIECES[:1], hang=True)
    caller = client(provider)
    call = asyncio.create_task(caller.post(**ASK, stream=stream))
    while not provider.requests:
        await asyncio.sleep(0)
    assert not provider.is_stopped.is_set()
    caller.gone.set()
    await asyncio.wait_for(call, 5)
    assert provider.is_stopped.is_set()


async def test_bodies_that_cannot_be_read() -> None:
    answer = await client().call("POST", "/v1/chat/completions", b"{")
    assert (answer.status, answer.error["code"]) == (400, "malformed_body")
    answer = await client(max_body_bytes=10).call("POST", "/v1/chat/completions", b"x" * 11)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


async def test_a_wrong_field_names_itself() -> None:
    answer = await client().post(**ASK, temperature="hot")
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "temperature", "invalid_type")


async def test_an_unknown_model() -> None:
    answer = await client().post(**{**ASK, "model": "gpt-9"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("host", ["cre-abc.localhost:8000", "CRE-abc.localhost"])
async def test_a_preview_host_does_not_reach_us(host: str) -> None:
    answer = await client().call("GET", "/v1/models", headers={"host": host})
    assert answer.status == 404


async def test_a_lifespan_is_followed() -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await router(SaidProvider(), KnownKeys())({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
