"""Providers that fail for a while: retries, keys that rest, breakers all replicas share, fallbacks, and never a splice."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from configs.catalog import Alias, Catalog
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.domain.spending import Scope
from tests.conftest import Server, Tenant
from tests.doubles.answers import Answer, Body, Ending, HangUp, Json, Refusal, Silence, Sse
from tests.doubles.llmock import Llmock, fail, running_llmock, stream_fault
from tests.doubles.provider import Double, Request
from tests.integration.routed import DONE, Routed, all_rested, chat_answer, message_answer, router_of, used_by, words
from tests.routers import RunningRouter, catalog_of, model, provider

KEYS = {"RES_ONE": "sk-one", "RES_TWO": "sk-two"}
LONG = {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}
POLICY = {"error": {"message": "no", "type": "invalid_request_error", "code": "content_policy_violation"}}


def catalog(url: str, mock: str) -> Catalog:
    one, both = ["RES_ONE"], ["RES_ONE", "RES_TWO"]
    chains = {"error": ["spare"], "context_length": ["long"], "content_policy": ["free"]}
    return catalog_of(
        [
            provider("single", f"{url}/single", "openai-chat", keys=one),
            provider("double", f"{url}/double", "openai-chat", keys=both),
            provider("spare", f"{url}/spare", "openai-chat"),
            provider("claude", f"{url}/claude", "anthropic", keys=one),
            provider("mock", mock, "openai-chat"),
        ],
        [
            model("gpt", "single"),
            model("pair", "double"),
            model("gpt-small", "single"),
            model("chained", "single", fallbacks=chains),
            model("spare", "spare"),
            model("long", "spare", context_tokens=900_000),
            model("free", "claude", price={"input": 0.5, "output": 0.5}),
            model("dear", "spare", price={"input": 100.0, "output": 100.0}),
            model("mocked", "mock"),
        ],
        [
            Alias(id="thrifty", models=("gpt", "dear", "spare"), strategy="ordered"),
            Alias(id="spread", models=("gpt", "spare"), strategy="ordered"),
        ],
    )


@pytest.fixture(scope="module")
def llmock_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llmock]:
    with running_llmock(tmp_path_factory.mktemp("llmock")) as running:
        yield running


@pytest.fixture
def llmock(llmock_process: Llmock) -> Llmock:
    llmock_process.reset()
    return llmock_process


@pytest.fixture(scope="module")
async def provider_double() -> AsyncIterator[Double]:
    async with Double() as double:
        yield double


@pytest.fixture(scope="module")
async def routers(
    postgres: Server, valkey: Server, provider_double: Double, llmock_process: Llmock
) -> AsyncIterator[list[RunningRouter]]:
    """Two replicas of one router."""
    made_of = catalog(provider_double.url, llmock_process.base_url())
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(router_of(postgres, valkey, made_of, KEYS)) for _ in range(2)]


@pytest.fixture
async def double(provider_double: Double, valkey: Server) -> Double:
    await all_rested(valkey)
    provider_double.requests.clear()
    for name in ("single", "double", "spare"):
        provider_double.plays(Json(chat_answer(name)), on=f"/{name}/chat/completions")
    provider_double.plays(Json(message_answer({"type": "text", "text": "claude"})), on="/claude/v1/messages")
    return provider_double


@pytest.fixture
async def replicas(
    routers: list[RunningRouter], database: Database, tenant: Tenant, double: Double
) -> AsyncIterator[list[Routed]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(used_by(tenant, router, database)) for router in routers]


@pytest.fixture
def here(replicas: list[Routed]) -> Routed:
    return replicas[0]


def fails(double: Double, *answers: Answer, at: str = "single") -> None:
    double.plays(*answers, on=f"/{at}/chat/completions")


def said(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def keys_used(double: Double) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in double.requests]


GOOD = Json(chat_answer("single"))


@pytest.mark.parametrize("bad", [HangUp(), HangUp(ending=Ending.RESET), Refusal(500), Refusal(503), Refusal(529),
                                 Body(body=b"{", content_type="application/json")])  # fmt: skip
async def test_a_failure_before_the_first_byte_is_tried_again(here: Routed, double: Double, bad: Answer) -> None:
    # On a connection that was kept silence is no failure yet: it may have been closed while it lay there.
    here.replica._upstream._anywhere._idle.clear()
    fails(double, bad, GOOD)
    answer = await here.chat()
    assert said(answer) == "single"
    assert len(double.requests) == 2
    assert double.requests[0].body == double.requests[1].body
    assert "gpt(provider_failed)" in answer.headers["x-aether-route"]
    assert (await here.entry()).outcome == "completed"


async def test_what_a_provider_declines_is_not_tried_again(here: Routed, double: Double) -> None:
    for status in (400, 404, 413, 422):
        double.requests.clear()
        fails(double, Refusal(status))
        assert (await here.chat()).status_code == status
        assert len(double.requests) == 1


async def test_nothing_is_spliced_after_the_first_byte(here: Routed, double: Double) -> None:
    fails(double, Sse(words("a", "b"), ending=Ending.CUT), Sse(words("never") + DONE))
    for name in ("chained", "spread"):
        double.requests.clear()
        fails(double, Sse(words("a", "b"), ending=Ending.CUT), Sse(words("never") + DONE))
        answer = await here.chat(name, stream=True)
        assert (answer.content.startswith(words("a", "b")), "never" in answer.text) == (True, False)
        assert "error" in answer.text
        assert len(double.requests) == 1


async def test_retry_after_is_honoured(here: Routed, double: Double) -> None:
    for headers in ({"retry-after": "1"}, {"retry-after-ms": "700", "retry-after": "60"}):
        double.requests.clear()
        fails(double, Body(body=b"{}", status=429, headers=headers), GOOD)
        began = time.monotonic()
        assert said(await here.chat()) == "single"
        assert 0.7 <= time.monotonic() - began < 3
        assert len(double.requests) == 2
        await asyncio.sleep(0.4)


async def test_a_long_retry_after_is_passed_on(here: Routed, double: Double) -> None:
    fails(double, Refusal(429, retry_after="33"))
    answer = await here.chat()
    assert (answer.status_code, len(double.requests)) == (429, 1)
    assert 31 <= int(answer.headers["retry-after"]) <= 33
    answer = await here.chat()
    assert (answer.status_code, len(double.requests)) == (503, 1), "its only key rests"
    assert 25 <= int(answer.headers["retry-after"]) <= 33


@pytest.mark.parametrize(
    ("bad", "others"),
    [
        (Refusal(429, retry_after="30"), 200),
        (Refusal(429, {"error": {"message": "No money.", "code": "insufficient_quota"}}, retry_after="30"), 503),
        (Refusal(401), 503),
    ],
)
async def test_a_limit_is_of_one_model_unless_it_is_the_accounts(
    replicas: list[Routed], double: Double, bad: Answer, others: int
) -> None:
    fails(double, bad, GOOD)
    assert (await replicas[0].chat("gpt")).status_code in {429, 500}
    for replica in replicas:
        assert (await replica.chat("gpt")).status_code == 503
        assert (await replica.chat("gpt-small")).status_code == others


@pytest.mark.parametrize("status", [429, 401])
async def test_keys_take_over_from_each_other(
    here: Routed, replicas: list[Routed], double: Double, status: int
) -> None:
    def choose(request: Request) -> Answer:
        good = request.headers["authorization"] == "Bearer sk-two"
        return Json(chat_answer("double")) if good else Refusal(status, retry_after="20" if status == 429 else None)

    double.chooses(choose, on="/double/chat/completions")
    for _ in range(4):
        assert said(await here.chat("pair")) == "double"
    assert keys_used(double).count("sk-one") == 1
    for _ in range(3):
        assert said(await replicas[1].chat("pair")) == "double"
    # The other replica learns it from its first call at the latest.
    assert keys_used(double).count("sk-one") == 1
    assert {entry.credential for entry in await here.entries(7)} == {"env:RES_TWO"}


async def test_a_breaker_opens_is_shared_and_closes(replicas: list[Routed], double: Double) -> None:
    fails(double, Refusal(500))
    one, two = replicas
    for _ in range(2):
        assert (await one.chat()).status_code == 502
    calls = len(double.requests)
    assert calls >= 5
    for replica in replicas:
        answer = await replica.chat()
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
    assert len(double.requests) == calls, "nobody asks while it rests"
    assert (await two.chat("spread")).headers["x-aether-route"].startswith("spare")
    fails(double, GOOD)
    await asyncio.sleep(5.2)
    answers = await asyncio.gather(*(replica.chat() for replica in replicas for _ in range(3)))
    assert 200 in {answer.status_code for answer in answers}, "one of them probes"
    for replica in replicas:
        assert said(await replica.chat()) == "single"


async def test_a_probe_whose_client_leaves_is_followed_by_the_next(replicas: list[Routed], double: Double) -> None:
    fails(double, Refusal(500))
    one, two = replicas
    for _ in range(2):
        assert (await one.chat()).status_code == 502
    await asyncio.sleep(5.2)
    fails(double, Silence(), GOOD)
    calls = len(double.requests)
    impatient = asyncio.create_task(one.chat())
    probe = await double.received(calls + 1)
    assert (await two.chat()).status_code == 503, "one at a time"
    impatient.cancel()
    await probe.left.wait()
    async with asyncio.timeout(2):
        while (answer := await two.chat()).status_code == 503:
            await asyncio.sleep(0.02)
    assert said(answer) == "single"


@pytest.mark.parametrize(
    ("bad", "name", "why"),
    [
        (Refusal(500), "spare", "provider_failed"),
        (Refusal(429), "spare", "rate_limit_exceeded"),
        (Refusal(401), "spare", "misconfigured"),
        (Refusal(400, LONG), "long", "context_length_exceeded"),
        (Refusal(400, POLICY), "free", "content_filter"),
    ],
)
async def test_fallback_chains(here: Routed, double: Double, bad: Answer, name: str, why: str) -> None:
    fails(double, bad)
    answer = await here.chat("chained")
    assert said(answer) in {"spare", "claude"}
    told = answer.headers["x-aether-route"]
    assert told.startswith(f"{name}; provider=")
    assert f"chained({why})" in told
    entry = await here.entry()
    assert (entry.model, entry.outcome) == (name, "completed")
    assert entry.cost <= entry.reserved


async def test_a_stream_falls_back_before_its_first_byte(here: Routed, double: Double) -> None:
    fails(double, Sse(b'data: {"error":{"message":"no","type":"server_error","code":null}}\n\n'))
    fails(double, Sse(words("spare") + DONE), at="spare")
    answer = await here.chat("chained", stream=True)
    assert answer.content == words("spare") + DONE
    assert answer.headers["x-aether-route"].startswith("spare; provider=spare")


async def test_an_aliass_fallback_never_costs_more_than_is_reserved(here: Routed, double: Double) -> None:
    repository, org_id = SqlGatewayRepository(here.database), here.tenant.caller.org_id
    # Enough for what the first may cost, and not for the dear one.
    await repository.add_budget(org_id, Scope("organisation", org_id), 2_000_000, "total")
    fails(double, Refusal(500))
    answer = await here.chat("thrifty", max_tokens=100)
    assert said(answer) == "spare"
    assert answer.headers["x-aether-route"].startswith("spare")
    entry = await here.entry()
    assert entry.model == "spare"
    assert entry.cost <= entry.reserved


async def test_an_outage_is_not_amplified(here: Routed, double: Double) -> None:
    fails(double, Refusal(500))
    answers = await asyncio.gather(*(here.chat() for _ in range(100)))
    assert {answer.status_code for answer in answers} <= {502, 503}
    # Once the breaker is open no call tries that key again: without, it would be three times as many.
    assert len(double.requests) <= 100 + 10


async def test_llmocks_faults(here: Routed, llmock: Llmock, valkey: Server) -> None:
    llmock.plays(fail(429, retry_after=1))
    assert (await here.chat("mocked")).status_code == 200
    await all_rested(valkey)
    llmock.plays(fail(500, times=2))
    assert (await here.chat("mocked", stream=True)).status_code == 200
    # A relay passes on what is malformed as it is: only who must read it can tell.
    for kind, call in (("disconnect", here.chat), ("truncate", here.chat), ("malformed", here.message)):
        await all_rested(valkey)
        llmock.plays(stream_fault(kind, after_chunks=2))
        answer = await call("mocked", stream=True)
        assert answer.status_code == 200
        assert "error" in answer.text, kind
    found = {one["code"] for one in llmock.findings()}
    # Its other findings want a stream asked for again that has begun, and do not know jitter.
    assert not found & {"retry_after_ignored", "retry_storm"}
