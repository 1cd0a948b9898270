"""The edge of the models application over real HTTP: paths, keys, bodies, the shapes of errors, clients that leave."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.domain.spending import Limit, Scope
from serve_app.core.services.callers import MODELS_TICKET, TicketSigner
from tests.conftest import Server, Tenant
from tests.doubles.answers import Ending, Endless, Json, Refusal, Silence, Sse, events
from tests.doubles.provider import Double
from tests.integration.routed import (
    CHAT,
    DONE,
    HI,
    MESSAGES,
    Routed,
    all_rested,
    chat_answer,
    router_of,
    used_by,
    words,
)
from tests.routers import SECRET, RunningRouter, catalog_of, model, provider

KEYS = {"EDGE_ONE": "sk-edge-one-secret", "EDGE_TWO": "sk-edge-two-secret"}


@pytest.fixture(scope="module")
async def provider_double() -> AsyncIterator[Double]:
    async with Double() as double:
        yield double


@pytest.fixture(scope="module")
async def router(postgres: Server, valkey: Server, provider_double: Double) -> AsyncIterator[RunningRouter]:
    url = provider_double.url
    catalog = catalog_of(
        [
            provider("openai", f"{url}/v1", "openai-chat", "openai-responses", keys=["EDGE_ONE"]),
            provider("anthropic", url, "anthropic", keys=["EDGE_TWO"]),
            provider("keyless", url, "openai-chat", keys=["EDGE_NOBODY_SET"]),
        ],
        [model("gpt", "openai"), model("claude", "anthropic"), model("nobodys", "keyless")],
    )
    async with router_of(postgres, valkey, catalog, KEYS, max_body_bytes=20_000, send_stall_s=1.0) as router:
        yield router


@pytest.fixture
async def double(provider_double: Double, valkey: Server) -> Double:
    await all_rested(valkey)
    provider_double.requests.clear()
    provider_double.plays(Json(chat_answer()))
    return provider_double


@pytest.fixture
async def edge(router: RunningRouter, database: Database, tenant: Tenant, double: Double) -> AsyncIterator[Routed]:
    async with used_by(tenant, router, database) as edge:
        yield edge


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.mark.parametrize(
    ("path", "root_path"), [("/v1/models", ""), ("/v1/models", "/v1"), ("/models", "/v1"), ("/v1/models/", "")]
)
async def test_models_are_listed_however_the_server_mounts_us(edge: Routed, path: str, root_path: str) -> None:
    transport = httpx.ASGITransport(app=edge.replica.app, root_path=root_path)
    headers = {"authorization": f"Bearer {edge.tenant.key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://router", headers=headers) as client:
        answer = await client.get(path)
    assert answer.status_code == 200
    assert [one["id"] for one in answer.json()["data"]] == ["gpt", "claude"]


async def test_models_in_both_shapes(edge: Routed) -> None:
    answer = await edge.client.get("/v1/models")
    assert answer.headers["x-request-id"].startswith("req_")
    listed = answer.json()
    assert listed["object"] == "list"
    assert listed["data"][0] == {"id": "gpt", "object": "model", "created": 1767225600, "owned_by": "openai"}
    assert (await edge.client.get("/v1/models/gpt")).json() == listed["data"][0]
    anthropic = {"anthropic-version": "2023-06-01"}
    listed = (await edge.client.get("/v1/models", headers=anthropic)).json()
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("gpt", "claude", False)
    one = {"type": "model", "id": "claude", "display_name": "claude", "created_at": "2026-01-01T00:00:00Z"}
    assert listed["data"][1] == one
    assert (await edge.client.get("/v1/models/claude", headers=anthropic)).json() == one
    for name in ("gpt-9", "nobodys"):
        answer = await edge.client.get(f"/v1/models/{name}")
        assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
        answer = await edge.client.get(f"/v1/models/{name}", headers=anthropic)
        assert (answer.status_code, error_of(answer)["type"]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/v1/models", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/responses/", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/models/gpt", 405, "method_not_allowed"),
        ("PATCH", "/v1/responses/resp_1", 405, "method_not_allowed"),
    ],
)
async def test_wrong_addresses(edge: Routed, method: str, path: str, status: int, code: str) -> None:
    answer = await edge.client.request(method, path)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("token", [None, "aek_bad_key", "sk-123", "aet_x.y", "aek_" + "x" * 5000])
async def test_without_a_good_key(edge: Routed, double: Double, token: str | None) -> None:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=edge.url, headers=headers) as stranger:
        asked = {"model": "gpt", "messages": HI}
        for answer in (await stranger.post(CHAT, json=asked), await stranger.get("/v1/models")):
            assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
        answer = await stranger.post(MESSAGES, json=asked)
        assert (answer.status_code, answer.json()["type"], error_of(answer)["type"]) == (
            401, "error", "authentication_error"
        )  # fmt: skip
    assert not double.requests


async def test_a_ticket_for_this_edge_is_taken_and_another_is_not(edge: Routed) -> None:
    signer = TicketSigner(SECRET.encode(), SystemClock())
    for purpose, ttl_s, status in ((MODELS_TICKET, 60, 200), ("previews", 60, 401), (MODELS_TICKET, -5, 401)):
        ticket = signer.issue(edge.tenant.caller, purpose, ttl_s)
        answer = await edge.client.get("/v1/models", headers={"authorization": f"Bearer {ticket}"})
        assert answer.status_code == status
    # Anthropic's clients have a header of their own for it.
    async with httpx.AsyncClient(base_url=edge.url, headers={"x-api-key": edge.tenant.key}) as client:
        assert (await client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(("body", "code"), [(b"{", "malformed_body"), (b"[]", "malformed_body"), (b"", "malformed_body"),
                                            (b'{"a":NaN}', "malformed_body"), (b"\xff", "malformed_body")])  # fmt: skip
async def test_bodies_that_cannot_be_read(edge: Routed, double: Double, body: bytes, code: str) -> None:
    answer = await edge.client.post(CHAT, content=body)
    assert (answer.status_code, error_of(answer)["code"]) == (400, code)
    answer = await edge.client.post(MESSAGES, content=body)
    assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert not double.requests


async def test_bodies_that_are_too_large(edge: Routed) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 5_000

    for content in (b"x" * 20_001, pieces()):
        answer = await edge.client.post(CHAT, content=content)
        assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
    answer = await edge.client.post(MESSAGES, content=b"x" * 20_001)
    assert (answer.status_code, error_of(answer)["type"]) == (413, "request_too_large")


async def test_a_wrong_field_names_itself(edge: Routed, double: Double) -> None:
    answer = await edge.chat(temperature="hot")
    error = error_of(answer)
    assert (answer.status_code, error["param"], error["code"]) == (400, "temperature", "invalid_type")
    answer = await edge.message(max_tokens="many")
    assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error")
    assert "max_tokens" in error_of(answer)["message"]
    answer = await edge.client.post("/v1/responses", json={"model": "gpt", "input": "hi", "background": True})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "background")
    assert not double.requests


async def test_an_unknown_model(edge: Routed, double: Double) -> None:
    answer = await edge.chat("gpt-9")
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    answer = await edge.message("claud")
    assert (answer.status_code, error_of(answer)["type"]) == (404, "not_found_error")
    assert "claude" in error_of(answer)["message"]
    answer = await edge.chat("nobodys")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    assert not double.requests


@pytest.mark.parametrize("host", ["cre-abc.localhost:8000", "CRE-abc.localhost", "cre-abc.localhost.", "x.localhost"])
async def test_a_preview_host_does_not_reach_us(edge: Routed, host: str) -> None:
    assert (await edge.client.get("/v1/models", headers={"host": host})).status_code == 404


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "told", "seen", "code", "kind"),
    [
        (400, "context_length_exceeded", 400, "context_length_exceeded", "invalid_request_error"),
        (418, "tea", 418, "tea", "invalid_request_error"),
        (500, "down sk-edge-one-secret", 502, "provider_failed", "server_error"),
        (401, "Incorrect API key provided: sk-edge-one-secret", 500, "misconfigured", "server_error"),
        (429, "slow down", 429, "rate_limit_exceeded", "rate_limit_error"),
    ],
)
async def test_an_error_before_the_first_byte(
    edge: Routed, double: Double, stream: bool, status: int, told: str, seen: int, code: str, kind: str
) -> None:
    said = {"error": {"message": told, "type": "invalid_request_error", "param": None, "code": told}}
    double.plays(Refusal(status, said))
    answer = await edge.chat(stream=stream)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["type"]) == (seen, code, kind)
    assert set(error) == {"message", "type", "param", "code"}
    assert "edge-one" not in answer.text
    entry = await edge.entry()
    assert (entry.outcome, entry.cost) == ("failed", 0)
    answer = await edge.message("gpt", stream=stream)
    assert answer.json()["type"] == "error", "in the client's dialect, not the provider's"


@pytest.mark.parametrize("breaks", ["cut", "says so"])
async def test_an_error_after_the_first_byte_is_the_last_event(edge: Routed, double: Double, breaks: str) -> None:
    said = b'data: {"error":{"message":"overloaded","type":"server_error","code":null}}\n\n'
    double.plays(
        Sse(words("a", "b") + (said if breaks == "says so" else b""), split=events, delay_s=0.05, ending=Ending.CUT)
    )
    answer = await edge.chat(stream=True)
    assert answer.status_code == 200
    assert answer.content.startswith(words("a", "b"))
    last = answer.content.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    # What the provider says of its own failure are its own words, and the last.
    told = None if breaks == "says so" else "provider_failed"
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == told
    translated = await edge.message("gpt", stream=True)
    name, _, data = translated.text.removesuffix("\n\n").rpartition("\n\n")[2].partition("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["type"] == "api_error"
    assert "message_stop" not in translated.text
    assert {entry.outcome for entry in await edge.entries(2)} == {"failed"}
    assert len(double.requests) == 2


async def test_what_came_with_an_error_is_delivered_before_it(edge: Routed, double: Double) -> None:
    said = b'data: {"error":{"message":"overloaded","type":"server_error","code":null}}\n\n'
    first, second = words("one"), words("two") + said
    double.plays(Sse(first + second, split=lambda _: iter([first, second]), delay_s=0.1))
    answer = await edge.message("gpt", stream=True)
    parts = answer.text.removesuffix("\n\n").split("\n\n")
    texts = [part.partition("\n")[2] for part in parts if "text_delta" in part]
    assert [json.loads(text.removeprefix("data: "))["delta"]["text"] for text in texts] == ["one", "two"]
    assert parts[-1].startswith("event: error")
    entry = await edge.entry()
    assert (entry.outcome, entry.usage.output, entry.is_estimated) == ("failed", 2, True)
    double.plays(Sse(second), Sse(words("three") + DONE))
    answer = await edge.message("gpt", stream=True)
    assert "three" in answer.text
    assert "two" not in answer.text, "nothing of it had gone out: the provider could be asked again"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_provider(edge: Routed, double: Double, stream: bool) -> None:
    double.plays(Sse(words("a", "b", "c"), ending=Ending.STALL) if stream else Silence())
    call = asyncio.create_task(edge.chat(stream=stream))
    request = await asyncio.wait_for(double.received(), 5)
    await asyncio.sleep(0.1)
    assert not request.left.is_set()
    call.cancel()
    await asyncio.wait_for(request.left.wait(), 5)
    entry = await edge.entry()
    assert (entry.outcome, entry.usage.output, entry.is_estimated) == ("aborted", 3 if stream else 0, True)
    assert entry.cost > 0


async def raw_stream(url: str, tenant: Tenant) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream whose reader takes what it is told to and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port, limit=1024)
    body = json.dumps({"model": "gpt", "messages": HI, "stream": True})
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.key}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    return reader, writer


async def test_a_client_that_stops_reading_is_given_up(edge: Routed, double: Double) -> None:
    org_id = edge.tenant.caller.org_id
    await SqlGatewayRepository(edge.database).set_limit(org_id, Limit(Scope("organisation", org_id), concurrency=1))
    double.plays(Endless())
    reader, writer = await raw_stream(edge.url, edge.tenant)
    request = await asyncio.wait_for(double.received(), 5)
    assert (await edge.chat()).status_code == 429, "it has the only place"
    # It goes on: while it reads, however slowly, it keeps its place.
    for _ in range(3):
        await asyncio.sleep(0.4)
        await reader.readexactly(1_000_000)
    assert not request.left.is_set()
    await asyncio.wait_for(request.left.wait(), 5)
    entry = await edge.entry()
    assert (entry.outcome, entry.is_estimated) == ("aborted", True)
    double.plays(Json(chat_answer()))
    async with asyncio.timeout(2):
        while (await edge.chat()).status_code == 429:
            await asyncio.sleep(0.02)
    writer.close()


async def test_a_client_that_reads_nothing_keeps_no_connection_open(
    postgres: Server, valkey: Server, tenant: Tenant, double: Double
) -> None:
    catalog = catalog_of([provider("openai", f"{double.url}/v1", "openai-chat")], [model("gpt", "openai")])
    double.plays(Endless())
    async with asyncio.timeout(10):
        # A router closes when its last connection has.
        async with router_of(postgres, valkey, catalog, send_stall_s=0.3) as router:
            _, writer = await raw_stream(router.url, tenant)
            await double.received()
        writer.close()


async def test_a_client_that_leaves_before_the_head_of_a_stream_pays_for_what_may_have_been_read(
    edge: Routed, double: Double
) -> None:
    double.plays(Sse(words("a") + DONE, first_byte_s=30.0))
    with pytest.raises(httpx.ReadTimeout):
        await edge.client.post(CHAT, json={"model": "gpt", "messages": HI, "stream": True}, timeout=0.3)
    request = await double.received()
    await asyncio.wait_for(request.left.wait(), 5)
    entry = await edge.entry()
    assert (entry.outcome, entry.is_estimated, entry.usage.output) == ("aborted", True, 0)
    assert entry.cost == entry.usage.input * 1000


async def test_a_choice_is_explained_without_a_call(edge: Routed, double: Double) -> None:
    asked = {"model": "auto", "messages": HI, "max_tokens": 100}
    answer = await edge.client.post("/v1/route/explain", json=asked)
    told = answer.json()
    assert (answer.status_code, told["object"], told["asked"], told["model"]) == (200, "route", "auto", "gpt")
    assert told["needs"]["output_tokens"] == 100
    nested = {"dialect": "anthropic", "request": {"model": "claude", "max_tokens": 9, "messages": HI}}
    told = (await edge.client.post("/v1/route/explain", json=nested)).json()
    assert [(one["model"], one["provider"]) for one in told["candidates"]] == [("claude", "anthropic")]
    assert told["reasons"] == [{"model": "claude", "taken": True, "why": "asked for by name"}]
    answer = await edge.client.post("/v1/route/explain", json={"dialect": "telegraph", "request": {}})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "dialect")
    answer = await edge.client.post("/v1/route/explain", json={"model": "gpt-9"})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    assert not double.requests
