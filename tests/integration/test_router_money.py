"""What calls cost: limits and budgets before the provider is asked, exact settlements, the cache, the request log."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import orjson
import pytest

from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.db.repositories.request_log import SqlRequestLogRepository
from serve_app.core.domain.spending import Limit, Scope, ScopeKind
from tests.conftest import Server, Tenant
from tests.doubles.answers import Ending, Fixture, Json, Silence, Sse, events
from tests.doubles.provider import Double
from tests.integration.routed import (
    DONE,
    HI,
    RESPONSES,
    Routed,
    all_rested,
    chat_answer,
    message_answer,
    router_of,
    used_by,
    words,
)
from tests.routers import RunningRouter, catalog_of, model, provider

# Dollars a million tokens, which are thousandths of nano-dollars a token.
PRICE = {"input": 10.0, "output": 20.0, "cached_input": 1.0, "cache_write": 12.5}


@pytest.fixture(scope="module")
async def provider_double() -> AsyncIterator[Double]:
    async with Double() as double:
        yield double


@pytest.fixture(scope="module")
async def router(postgres: Server, valkey: Server, provider_double: Double) -> AsyncIterator[RunningRouter]:
    url = provider_double.url
    long = {**PRICE, "long": {"above": 1000, "input": 30.0, "output": 60.0, "cached_input": 3.0}}
    catalog = catalog_of(
        [
            provider("openai", f"{url}/v1", "openai-chat", "openai-responses"),
            provider("anthropic", url, "anthropic"),
            provider("google", url, "gemini"),
        ],
        [
            model("gpt", "openai", price=PRICE),
            model("claude", "anthropic", price=PRICE),
            model("gemini", "google", price=PRICE),
            model("long", "openai", price=long),
            model("free", "openai", price={}),
        ],
    )
    async with router_of(postgres, valkey, catalog) as router:
        yield router


@pytest.fixture
async def double(provider_double: Double, valkey: Server) -> Double:
    await all_rested(valkey)
    provider_double.requests.clear()
    provider_double.plays(Json(chat_answer()), on="/chat/completions")
    provider_double.plays(Json(message_answer()), on="/messages")
    return provider_double


@pytest.fixture
async def here(router: RunningRouter, database: Database, tenant: Tenant, double: Double) -> AsyncIterator[Routed]:
    async with used_by(tenant, router, database) as here:
        yield here


@pytest.fixture
def rules(database: Database) -> SqlGatewayRepository:
    return SqlGatewayRepository(database)


def scope_of(tenant: Tenant, kind: ScopeKind) -> Scope:
    caller = tenant.caller
    return Scope(kind, caller.org_id if kind == "organisation" else caller.user_id)


@pytest.mark.parametrize("kind", ["organisation", "user"])
async def test_a_limit_of_requests(
    here: Routed, double: Double, rules: SqlGatewayRepository, tenant: Tenant, kind: ScopeKind
) -> None:
    await rules.set_limit(tenant.caller.org_id, Limit(scope_of(tenant, kind), requests=2))
    first = await here.chat()
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    second = await here.message()
    assert second.headers["anthropic-ratelimit-requests-limit"] == "2"
    assert second.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert datetime.fromisoformat(second.headers["anthropic-ratelimit-requests-reset"])
    asked = len(double.requests)
    third = await here.chat(stream=True)
    assert (third.status_code, third.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 25 <= int(third.headers["retry-after"]) <= 30
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    fourth = await here.message()
    assert (fourth.status_code, fourth.json()["error"]["type"]) == (429, "rate_limit_error")
    assert fourth.headers["anthropic-ratelimit-requests-limit"] == "2"
    assert len(double.requests) == asked
    assert len(await here.entries(2)) == 2, "what was refused is no call"


async def test_a_limit_of_tokens(here: Routed, double: Double, rules: SqlGatewayRepository, tenant: Tenant) -> None:
    await rules.set_limit(tenant.caller.org_id, Limit(scope_of(tenant, "organisation"), tokens=1000))
    answer = await here.chat(max_tokens=900)
    assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 100
    async with asyncio.timeout(5):
        # Eighteen were used: what was not is given back.
        while (answer := await here.chat(max_tokens=900)).status_code == 429:
            await asyncio.sleep(0.02)
    assert answer.status_code == 200
    asked = len(double.requests)
    answer = await here.chat(max_tokens=2000)
    assert answer.status_code == 429
    assert "ever gives" in answer.json()["error"]["message"]
    assert "retry-after" not in answer.headers, "waiting cannot help"
    assert len(double.requests) == asked


async def test_a_limit_of_calls_at_once(
    here: Routed, double: Double, rules: SqlGatewayRepository, tenant: Tenant
) -> None:
    await rules.set_limit(tenant.caller.org_id, Limit(scope_of(tenant, "user"), concurrency=2))
    double.plays(Silence(), on="/chat/completions")
    calls = [asyncio.create_task(here.chat()) for _ in range(2)]
    await asyncio.wait_for(double.received(2), 5)
    answer = await here.chat()
    assert (answer.status_code, "retry-after" in answer.headers, len(double.requests)) == (429, True, 2)
    for call in calls:
        call.cancel()
    double.plays(Json(chat_answer()), on="/chat/completions")
    async with asyncio.timeout(5):
        while (answer := await here.chat()).status_code == 429:
            await asyncio.sleep(0.02)
    assert answer.status_code == 200


async def test_a_budget_is_refused_before_the_provider_is_called(
    here: Routed, double: Double, rules: SqlGatewayRepository, tenant: Tenant
) -> None:
    # Ten may be written at 20,000 nano-dollars each; the request has about 20 tokens at 10,000, or at 12,500 when it is
    # written to a cache.
    await rules.add_budget(tenant.caller.org_id, scope_of(tenant, "user"), 600_000, "month")
    assert (await here.chat(max_tokens=10)).status_code == 200
    (entry,) = await here.entries()
    assert entry.cost == 11 * 10_000 + 7 * 20_000
    assert entry.cost <= entry.reserved <= 600_000
    asked = len(double.requests)
    answer = await here.chat(max_tokens=20)
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    answer = await here.message(max_tokens=20)
    assert (answer.status_code, answer.json()["error"]["type"]) == (402, "billing_error")
    assert len(double.requests) == asked
    assert (await here.chat("free", max_tokens=20)).status_code == 200


async def test_settlements_are_exact(here: Routed, double: Double) -> None:
    details: dict[str, Any] = {
        "prompt_tokens_details": {"cached_tokens": 600},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    double.plays(Json(chat_answer(read=1000, written=50, **details)), on="/chat/completions")
    for call in (here.chat, here.message):
        entry = await here.entry_of(await call("gpt"))
        assert (entry.usage.cached, entry.usage.reasoning, entry.is_estimated) == (600, 40, False)
        assert entry.cost == 400 * 10_000 + 600 * 1_000 + 50 * 20_000
    used: dict[str, Any] = {"input_tokens": 100, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 300}
    double.plays(Json(message_answer(**used, output_tokens=50)), on="/messages")
    for call in (here.message, here.chat):
        entry = await here.entry_of(await call("claude"))
        assert (entry.usage.input, entry.usage.cached, entry.usage.cache_written) == (1000, 600, 300)
        assert entry.cost == 100 * 10_000 + 600 * 1_000 + 300 * 12_500 + 50 * 20_000
    double.plays(Fixture("gemini/thoughts.sse"), on=":streamGenerateContent")
    entry = await here.entry_of(await here.chat("gemini", stream=True))
    assert (entry.usage.input, entry.usage.output, entry.usage.reasoning) == (11, 37, 33)
    assert entry.cost == 11 * 10_000 + 37 * 20_000
    double.plays(Fixture("openai-responses/text.sse"), on="/responses")
    answer = await here.client.post(RESPONSES, json={"model": "gpt", "input": "hi", "stream": True, "store": False})
    told = orjson.loads(answer.text.split("data: ")[-1])["response"]["usage"]
    entry = await here.entry_of(answer)
    assert (entry.usage.input, entry.usage.output) == (told["input_tokens"], told["output_tokens"])


async def test_a_long_request_costs_more_all_of_it(here: Routed, double: Double) -> None:
    for read, price in ((1000, (10_000, 20_000)), (1001, (30_000, 60_000))):
        double.plays(Json(chat_answer(read=read, written=10)), on="/chat/completions")
        entry = await here.entry_of(await here.chat("long"))
        assert entry.cost == read * price[0] + 10 * price[1]
        assert entry.price.output == price[1] * 1000


@pytest.mark.parametrize("name", ["gpt", "claude"])
async def test_a_stream_that_is_left_is_charged_by_what_was_written(here: Routed, double: Double, name: str) -> None:
    double.plays(Sse(words("a", "b", "c"), ending=Ending.STALL), on="/chat/completions")
    begun = Fixture("anthropic/text.sse", until=b"event: content_block_stop", ending=Ending.STALL)
    double.plays(begun, on="/messages")
    asked = {"model": name, "messages": HI, "stream": True, "max_tokens": 1000}
    async with here.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        seen = b""
        async for piece in answer.aiter_bytes():
            seen += piece
            if seen.count(b'"content":"') >= (3 if name == "gpt" else 2):
                break
    entry = await here.entry()
    assert (entry.outcome, entry.is_estimated) == ("aborted", True)
    # Anthropic has told what it read, of the others it is reckoned.
    assert entry.usage.input == (25 if name == "claude" else pytest.approx(25, abs=10))
    assert entry.usage.output in {2, 3}
    assert entry.cost == entry.usage.input * 10_000 + entry.usage.output * 20_000
    assert entry.cost < entry.reserved


async def test_answers_are_remembered_for_those_who_want_it(
    here: Routed, router: RunningRouter, double: Double, rules: SqlGatewayRepository, other_tenant: Tenant
) -> None:
    await rules.set_policy(here.tenant.caller.org_id, cache_ttl_s=60, log_mode="off")
    await rules.set_policy(other_tenant.caller.org_id, cache_ttl_s=60, log_mode="off")
    first = await here.chat()
    assert "x-aether-cache" not in first.headers
    await asyncio.sleep(0.2)
    again = await here.chat()
    assert (again.content, again.headers["x-aether-cache"]) == (first.content, "hit")
    assert again.headers["x-aether-route"].startswith("gpt")
    assert len(double.requests) == 1
    for changed in (here.chat(temperature=0.5), here.chat("free"), here.message("gpt")):
        assert "x-aether-cache" not in (await changed).headers
    async with used_by(other_tenant, router, here.database) as stranger:
        assert "x-aether-cache" not in (await stranger.chat()).headers
    assert len(double.requests) == 5
    double.plays(Sse(words("a", "b") + DONE, split=events), Json({}, status=500), on="/chat/completions")
    streamed = await here.chat(stream=True)
    await asyncio.sleep(0.2)
    again = await here.chat(stream=True)
    assert (again.content, again.headers["x-aether-cache"]) == (streamed.content, "hit")
    assert again.headers["content-type"].startswith("text/event-stream")
    hits = [entry for entry in await here.entries(7) if entry.outcome == "cached"]
    assert [(hit.cost, hit.usage.output) for hit in hits] == [(0, 0)] * 2


async def test_what_went_wrong_is_not_remembered(here: Routed, double: Double, rules: SqlGatewayRepository) -> None:
    await rules.set_policy(here.tenant.caller.org_id, cache_ttl_s=60, log_mode="off")
    double.plays(Sse(words("a"), ending=Ending.CUT), Sse(words("b") + DONE), on="/chat/completions")
    assert "error" in (await here.chat(stream=True)).text
    await asyncio.sleep(0.2)
    assert (await here.chat(stream=True)).content == words("b") + DONE


async def logged(here: Routed, count: int) -> list[dict[str, Any]]:
    log = SqlRequestLogRepository(here.database)
    async with asyncio.timeout(5):
        while len(rows := await log.page(here.tenant.caller.org_id, limit=100)) < count:
            await asyncio.sleep(0.05)
    return rows


async def test_the_request_log(here: Routed, double: Double, rules: SqlGatewayRepository) -> None:
    org_id = here.tenant.caller.org_id
    assert (await here.chat()).status_code == 200
    secret = "sk-proj-abcdefghijklmnopqrstuvwx"
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": f"my key is {secret}, I am ada@example.org"}]}
    await in_force(here, rules, "metadata")
    assert (await here.chat(**ask)).status_code == 200
    (row,) = await logged(here, 1)
    assert (row["model"], row["provider"], row["status"], row["dialect"]) == ("gpt", "openai", 200, "openai-chat")
    assert (row["request"], row["answer"]) == (None, None)
    assert row["org_id"] == org_id
    assert row["duration_ms"] >= row["overhead_ms"] >= 0
    await in_force(here, rules, "full")
    double.plays(Json(chat_answer(f"so it is {secret}\x00")), on="/chat/completions")
    assert secret in (await here.chat(**ask)).text, "the caller's own answer is left alone"
    row = (await logged(here, 2))[0]
    assert row["request"]["messages"][0]["content"] == "my key is [redacted], I am [redacted]"
    assert row["answer"]["choices"][0]["message"]["content"] == "so it is [redacted]"
    assert here.tenant.key not in str(row)
    double.plays(Json({"error": {"message": "no"}}, status=400), on="/chat/completions")
    assert (await here.chat()).status_code == 400
    assert (await logged(here, 3))[0]["status"] == 400


async def in_force(here: Routed, rules: SqlGatewayRepository, log_mode: str) -> None:
    """A policy is up to two seconds old, and read anew by the first call after them."""
    await rules.set_policy(here.tenant.caller.org_id, cache_ttl_s=None, log_mode=log_mode)
    await asyncio.sleep(2.1)
    await here.client.get("/v1/models")
    await asyncio.sleep(0.3)
