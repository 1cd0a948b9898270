"""Providers that misbehave: a clear error in the client's dialect, bounded memory, the slot freed, the ledger settled."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.domain.ids import new_provider_key_id
from serve_app.core.domain.spending import LedgerEntry, Limit, Scope
from serve_app.core.services.sealing import Sealer, seal_context
from tests.conftest import Server, Tenant
from tests.doubles.answers import (
    Answer,
    Body,
    Ending,
    Endless,
    Fixture,
    Framing,
    Garbage,
    HangUp,
    HugeLine,
    Json,
    Silence,
    Sse,
    events,
)
from tests.doubles.provider import Double
from tests.integration.routed import DONE, Routed, all_rested, chat_answer, router_of, used_by, words
from tests.routers import SECRET, RunningRouter, catalog_of, model, provider

KEYS = {"HOSTILE_ONE": "sk-hostile"}
QUICK = {"connect": 1.0, "first_token": 0.3, "between_tokens": 0.3, "total": 0.8}
MB = 1_000_000
FAILED, LATE = "provider_failed", "timed_out"


CASES: dict[str, tuple[Callable[[], Answer], str]] = {
    "not-http": (Garbage, FAILED),
    "a-closed-connection": (HangUp, FAILED),
    "a-reset-connection": (lambda: HangUp(ending=Ending.RESET), FAILED),
    "no-answer": (Silence, LATE),
    "a-head-and-no-more": (lambda: Sse(b"", ending=Ending.STALL), LATE),
    "half-a-body": (lambda: Body(body=b'{"id":', headers={"content-length": "500"}, ending=Ending.CUT), FAILED),
    "html": (lambda: Body(body=b"<html>hello</html>", content_type="text/html"), FAILED),
    "nothing": (lambda: Sse(b""), FAILED),
    "an-array": (lambda: Json([1, 2]), FAILED),
    "a-deep-one": (lambda: Body(body=b"[" * 100_000), FAILED),
    "not-utf-8": (lambda: Body(body=b'{"id":"\xff\xfe"}'), FAILED),
    "a-status-that-is-none": (lambda: Json({}, status=299), FAILED),
    "an-informative-status": (lambda: Json({}, status=304), FAILED),
    "a-long-header": (lambda: Json({}, headers={"x-long": "x" * 200_000}), FAILED),
    "an-error-with-a-huge-body": (lambda: Endless(status=500, piece=b"x" * 65536), FAILED),
}
"""By the path of a provider and the name of its model."""


@pytest.fixture(scope="module")
async def provider_double() -> AsyncIterator[Double]:
    async with Double() as double:
        yield double


@pytest.fixture(scope="module")
async def router(postgres: Server, valkey: Server, provider_double: Double) -> AsyncIterator[RunningRouter]:
    url = provider_double.url
    catalog = catalog_of(
        [
            provider("quick", f"{url}/v1", "openai-chat", keys=list(KEYS), timeouts=QUICK),
            provider("patient", f"{url}/v1", "openai-chat", keys=list(KEYS)),
            provider("anthropic", url, "anthropic", keys=list(KEYS), timeouts=QUICK),
            *(provider(place, f"{url}/{place}", "openai-chat", timeouts=QUICK) for place in CASES),
        ],
        [
            model("gpt", "quick"),
            model("patient", "patient"),
            model("claude", "anthropic"),
            *(model(place, place) for place in CASES),
        ],
    )
    async with router_of(postgres, valkey, catalog, KEYS, max_line_bytes=2 * MB, max_answer_bytes=4 * MB) as router:
        yield router


@pytest.fixture
async def double(provider_double: Double, valkey: Server) -> Double:
    await all_rested(valkey)
    provider_double.requests.clear()
    return provider_double


@pytest.fixture
async def here(router: RunningRouter, database: Database, tenant: Tenant, double: Double) -> AsyncIterator[Routed]:
    async with used_by(tenant, router, database) as here:
        yield here


@pytest.fixture
async def strict(here: Routed, tenant: Tenant) -> Routed:
    """One call at a time, so that a slot that is not freed is noticed."""
    org_id = tenant.caller.org_id
    limit = Limit(Scope("organisation", org_id), concurrency=1)
    await SqlGatewayRepository(here.database).set_limit(org_id, limit)
    return here


async def is_over(here: Routed, double: Double, valkey: Server, bad: httpx.Response) -> LedgerEntry:
    """The provider is left alone, the slot is free, and the ledger knows how it ended."""
    async with asyncio.timeout(5):
        while double.in_flight:
            await asyncio.sleep(0.02)
        await all_rested(valkey)
        double.plays(Json(chat_answer()))
        while (answer := await here.chat("patient")).status_code == 429:
            await asyncio.sleep(0.02)
    assert answer.status_code == 200
    entry = await here.entry_of(bad)
    assert entry.outcome == "failed"
    return entry


@asynccontextmanager
async def growth() -> AsyncIterator[Callable[[], int]]:
    """How much more memory this process had at most."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def watch() -> None:
        while True:
            seen.append(resident())
            await asyncio.sleep(0.002)

    gc.collect()
    seen = [resident()]
    task = asyncio.create_task(watch())
    try:
        yield lambda: max(seen) - seen[0]
    finally:
        task.cancel()


async def test_whatever_comes_before_the_first_byte(here: Routed, double: Double) -> None:
    for place, (answer, _) in CASES.items():
        double.plays(answer(), on=f"/{place}/chat/completions")

    async def ask(place: str) -> dict[str, set[Any]]:
        calls = (here.chat(place, stream=True), here.chat(place), here.message(place, stream=True), here.message(place))
        answers = await asyncio.gather(*calls)
        seen: set[Any] = {(one.json()["error"].get("code"), one.json()["error"]["type"]) for one in answers}
        return {place: seen | {one.status_code >= 500 for one in answers}}

    told: dict[str, set[Any]] = {}
    for one in await asyncio.gather(*map(ask, CASES)):
        told |= one
    kinds = {FAILED: (None, "api_error"), LATE: (None, "timeout_error")}
    assert told == {place: {(code, "server_error"), kinds[code], True} for place, (_, code) in CASES.items()}
    entries = await here.entries(4 * len(CASES))
    assert {(entry.outcome, entry.cost) for entry in entries} == {("failed", 0)}
    async with asyncio.timeout(5):
        while double.in_flight:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("begin", [b"", words("a", "b")], ids=["at first", "later"])
async def test_a_line_of_forty_megabytes_is_not_held(
    strict: Routed, double: Double, valkey: Server, begin: bytes
) -> None:
    line = HugeLine()
    for call in (strict.chat, strict.message):
        double.requests.clear()
        double.plays(Endless(line.piece, times=line.times, before=begin + line.before, after=line.after))
        async with growth() as grown:
            answer = await call("patient", stream=True)
            assert grown() < 64 * MB
        assert "too long" in answer.text
        assert (answer.status_code == 200) == bool(begin)
        assert {request.sent_bytes < 20 * MB for request in double.requests} == {True}
        entry = await is_over(strict, double, valkey, answer)
        assert (entry.cost > 0) == bool(begin)


async def test_an_answer_that_does_not_end_is_bounded(strict: Routed, double: Double, valkey: Server) -> None:
    for call, last in ((strict.chat, b'data: {"error":{'), (strict.message, b"event: error\n")):
        double.plays(Endless(before=words("a"), piece=words("and so on" * 1000)))
        async with growth() as grown:
            answer = await call("patient", stream=True)
            # The client of this process holds all of it.
            assert grown() < 3 * len(answer.content) + 32 * MB
        assert answer.status_code == 200
        assert last in answer.content[-500:]
        assert "too long" in answer.text[-500:]
        entry = await is_over(strict, double, valkey, answer)
        assert (entry.is_estimated, entry.usage.output > 100) == (True, True)
    double.plays(Endless(piece=b"x" * 65536, headers={"content-type": "application/json"}))
    answer = await strict.chat("patient")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, FAILED)
    await is_over(strict, double, valkey, answer)


async def test_a_stream_has_so_much_time_and_no_more(strict: Routed, double: Double, valkey: Server) -> None:
    for call in (strict.chat, strict.message):
        double.plays(Endless(delay_s=0.05))
        began = time.monotonic()
        answer = await call("gpt", stream=True)
        assert time.monotonic() - began < QUICK["total"] + 1.5
        assert answer.status_code == 200
        assert "in time" in answer.text[-500:]
        await is_over(strict, double, valkey, answer)


async def test_silence_between_tokens_ends_a_stream(strict: Routed, double: Double, valkey: Server) -> None:
    for call, code in ((strict.chat, "timed_out"), (strict.message, "timeout_error")):
        double.plays(Sse(words("a", "b"), ending=Ending.STALL))
        answer = await call("gpt", stream=True)
        assert answer.status_code == 200
        assert code in answer.text[-300:]
        assert (await is_over(strict, double, valkey, answer)).usage.output == 2


async def test_the_first_token_has_one_time_for_head_and_body(here: Routed, double: Double) -> None:
    double.plays(Sse(b"", first_byte_s=0.2, ending=Ending.STALL))
    began = time.monotonic()
    answer = await here.chat(stream=True, max_tokens=5)
    tries = len(double.requests)
    assert answer.status_code == 504
    assert time.monotonic() - began < tries * (QUICK["first_token"] + 0.1) + 1.2


@pytest.mark.parametrize("cut", [b"", b'data: {"id":"c","cho', words("a")[:-1]])
async def test_without_its_last_chunk_no_answer_is_whole(
    strict: Routed, double: Double, valkey: Server, cut: bytes
) -> None:
    for framing, ending in ((Framing.CHUNKED, Ending.CLEAN), (Framing.CLOSE, Ending.CUT)):
        for call, end in ((strict.chat, "[DONE]"), (strict.message, "message_stop")):
            double.plays(Sse(words("a", "b") + cut, framing=framing, ending=ending))
            answer = await call("gpt", stream=True)
            assert answer.status_code == 200
            assert end not in answer.text
            assert "error" in answer.text
            entry = await is_over(strict, double, valkey, answer)
            assert entry.is_estimated
            assert entry.usage.output in {2, 3}, "the last word may be counted that lacks its empty line"


SAID = {
    "gpt": b'data: {"error":{"message":"no","type":"server_error","code":null}}\n\n',
    "claude": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"no"}}\n\n',
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("before", [b"", b": keep-alive\n\n"], ids=["alone", "behind a comment"])
async def test_an_error_as_the_first_event_is_no_beginning(
    here: Routed, double: Double, valkey: Server, name: str, before: bytes
) -> None:
    good = Sse(words("a") + DONE) if name == "gpt" else Fixture("anthropic/text.sse")
    bad = Sse(before + SAID[name], split=events, delay_s=0.05)
    for call in (here.chat, here.message):
        double.plays(bad, good)
        answer = await call(name, stream=True)
        assert answer.status_code == 200
        assert "error" not in answer.text, "another try was still possible"
    await all_rested(valkey)
    double.plays(Sse(SAID[name]))
    assert (await here.chat(name, stream=True)).status_code in {502, 503}
    assert (await here.message(name, stream=True)).status_code >= 500


@pytest.mark.parametrize("status", [302, 308])
async def test_a_redirect_is_never_followed(here: Routed, double: Double, status: int) -> None:
    async with Double() as elsewhere:
        elsewhere.plays(Json(chat_answer()))
        double.plays(Json({}, status=status, headers={"location": f"{elsewhere.url}/v1/chat/completions"}))
        answer = await here.chat(max_tokens=5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, FAILED)
        assert not elsewhere.requests


@pytest.mark.parametrize("number", [-5, "12", 1.5, True, None, 2**63, 2**64, 10**30, [], {}])
async def test_tokens_that_are_none_are_not_believed(here: Routed, double: Double, number: Any) -> None:
    double.plays(Json(chat_answer(prompt_tokens=number, completion_tokens=number)))
    answer = await here.chat("patient")
    assert answer.status_code == 200
    entry = await here.entry()
    assert entry.outcome == "completed"
    assert type(entry.usage.input) is int
    assert 0 <= entry.cost < 10**13
    # And the slot is free, the ledger goes on.
    assert (await here.message("patient")).status_code == 200
    assert {one.outcome for one in await here.entries(2)} == {"completed"}


async def test_a_value_of_another_type_is_the_providers_failure(here: Routed, double: Double) -> None:
    answer = chat_answer()
    answer["choices"][0]["message"] |= {"reasoning_content": 5, "annotations": ["x"]}
    double.plays(Json(answer))
    whole = await here.message("gpt")
    assert (whole.status_code, whole.json()["error"]["type"]) == (500, "api_error")
    odd = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":["x"],"tool_calls":"y"}}]}\n\n'
    double.plays(Sse(words("a") + odd + words("b") + DONE, split=events, delay_s=0.05))
    stream = await here.message("gpt", stream=True)
    assert stream.status_code == 200
    assert ("api_error" in stream.text, "message_stop" in stream.text) == (True, False)
    assert {entry.outcome for entry in await here.entries(2)} == {"failed"}


PLACES = ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "127.1", "[::]")


@pytest.mark.parametrize("host", PLACES)
async def test_an_organisations_own_provider_is_on_a_public_address(here: Routed, double: Double, host: str) -> None:
    before = double.connections
    await bring_own(here, f"http://{host}:{double.port}/v1")
    answer = await here.chat("mine")
    # How a number may be written for an address is the HTTP client's business: some it takes for none.
    assert (answer.status_code, answer.json()["error"]["param"]) in ((400, "base_url"), (502, None))
    assert double.connections == before


async def test_an_operator_may_allow_private_addresses(
    postgres: Server, valkey: Server, database: Database, tenant: Tenant, other_tenant: Tenant, double: Double
) -> None:
    double.plays(Json(chat_answer()))
    catalog = catalog_of([provider("quick", double.url, "openai-chat")], [model("gpt", "quick")])
    async with router_of(postgres, valkey, catalog, allow_private_providers=True) as router:
        async with used_by(tenant, router, database) as here:
            await bring_own(here, f"{double.url}/v1")
            assert (await here.chat("mine")).status_code == 200
            assert double.requests[0].headers["authorization"] == "Bearer sk-of-the-organisation"
        async with used_by(other_tenant, router, database) as stranger:
            assert (await stranger.chat("mine")).status_code == 404


async def bring_own(here: Routed, base_url: str) -> None:
    repository, org_id = SqlGatewayRepository(here.database), here.tenant.caller.org_id
    sealed = Sealer([SECRET.encode()]).seal(b"sk-of-the-organisation", seal_context(org_id, "home"))
    await repository.put_entry(org_id, "provider", provider("home", base_url, "openai-chat").model_dump(mode="json"))
    await repository.put_entry(org_id, "model", model("mine", "home").model_dump(mode="json"))
    await repository.add_provider_key(org_id, new_provider_key_id(), "home", "main", sealed, "ab12")
