"""The official JavaScript `openai` client, unchanged, before providers of its own dialect and of others."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.core.db.engine import Database
from tests.conftest import Server, Tenant
from tests.doubles.answers import Answer, Ending, Fixture, Json, Sse
from tests.doubles.openai_js import run_js
from tests.doubles.provider import Double, Request
from tests.integration.routed import DONE, Routed, all_rested, chat_answer, message_answer, router_of, used_by, words
from tests.routers import catalog_of, model, provider

KEYS = {"JS_ONE": "sk-one"}


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    async with Double() as double:
        yield double


@pytest.fixture
async def here(
    postgres: Server, valkey: Server, database: Database, tenant: Tenant, double: Double
) -> AsyncIterator[Routed]:
    await all_rested(valkey)
    keys = list(KEYS)
    catalog = catalog_of(
        [
            provider("openai", f"{double.url}/v1", "openai-chat", "openai-responses", keys=keys, embeddings=True),
            provider("anthropic", double.url, "anthropic", keys=keys),
        ],
        [
            model("gpt", "openai"), model("claude", "anthropic"),
            model("embed", "openai", kind="embeddings", max_output_tokens=0, modalities=["text"]),
        ],
    )  # fmt: skip
    async with router_of(postgres, valkey, catalog, KEYS) as router, used_by(tenant, router, database) as here:
        yield here


async def run(here: Routed, scenario: str, name: str, *, fails: bool = False, **more: Any) -> Any:
    seen = await run_js(scenario, f"{here.url}/v1", here.tenant.key, model=name, **more)
    assert ("error" in seen) == fails, seen
    return seen


async def test_whole_answers_and_streams(here: Routed, double: Double) -> None:
    double.plays(Json(chat_answer("Grüße")), on="/chat/completions")
    double.plays(Json(message_answer({"type": "text", "text": "Grüße"})), on="/messages")
    for name in ("gpt", "claude"):
        seen = await run(here, "chat", name)
        assert seen["answer"]["choices"][0]["message"]["content"] == "Grüße"
        assert seen["request_id"].startswith("req_")
        assert seen["headers"]["x-aether-route"].startswith(name)
    double.plays(Fixture("openai-chat/text.sse"), on="/chat/completions")
    double.plays(Fixture("anthropic/text.sse"), on="/messages")
    for name, said in (("gpt", "Hello! Grüße 👋"), ("claude", "Hello!")):
        assert (await run(here, "stream", name))["text"] == said
        final = (await run(here, "accumulated", name))["answer"]["choices"][0]
        assert (final["message"]["content"], final["finish_reason"]) == (said, "stop")


async def test_a_whole_tool_loop_and_a_schema(here: Routed, double: Double) -> None:
    def openai_turn(request: Request) -> Answer:
        if any(message["role"] == "tool" for message in request.json()["messages"]):
            return Json(chat_answer("21 degrees"))
        answer = chat_answer()
        call = {"name": "get_weather", "arguments": json.dumps({"city": "Paris"})}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        answer["choices"][0] |= {"message": {"role": "assistant", "content": None, "tool_calls": calls},
                                 "finish_reason": "tool_calls"}  # fmt: skip
        return Json(answer)

    def anthropic_turn(request: Request) -> Answer:
        if b"tool_result" in request.body:
            return Json(message_answer({"type": "text", "text": "21 degrees"}))
        use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
        return Json(message_answer(use, stop="tool_use"))

    double.chooses(openai_turn, on="/chat/completions")
    double.chooses(anthropic_turn, on="/messages")
    for name in ("gpt", "claude"):
        seen = await run(here, "tools", name)
        assert (seen["called"], seen["text"]) == (["Paris"], "21 degrees")
    double.plays(Json(chat_answer('{"city":"Paris"}')), on="/chat/completions")
    double.plays(Json(message_answer({"type": "text", "text": '{"city":"Paris"}'})), on="/messages")
    for name in ("gpt", "claude"):
        assert (await run(here, "schema", name))["parsed"] == {"city": "Paris"}


async def test_responses_embeddings_and_models(here: Routed, double: Double) -> None:
    double.plays(Json(message_answer({"type": "text", "text": "hi Ada"})), on="/messages")
    seen = await run(here, "responses", "claude", prompt="I am Ada", follow_up="who am I?")
    assert (seen["text"], seen["second_text"]) == ("hi Ada", "hi Ada")
    assert [turn["role"] for turn in double.requests[-1].json()["messages"]] == ["user", "assistant", "user"]
    double.plays(Fixture("openai-responses/text.sse"), on="/responses")
    double.plays(Fixture("anthropic/text.sse"), on="/messages")
    for name in ("gpt", "claude"):
        types = (await run(here, "responses_stream", name))["types"]
        assert (types[0], types[-1]) == ("response.created", "response.completed")
        assert types.count("response.output_text.done") == 1
    floats = base64.b64encode(b"\x00\x00\x80\x3f" * 3).decode()
    data = [{"object": "embedding", "index": 0, "embedding": floats}]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    double.plays(Json({"object": "list", "data": data, "model": "embed", "usage": usage}), on="/embeddings")
    assert (await run(here, "embeddings", "embed"))["dimensions"] == [3]
    assert (await run(here, "models", "gpt"))["ids"] == ["gpt", "claude", "embed"]


async def test_errors_and_leaving(here: Routed, double: Double) -> None:
    missing = (await run(here, "chat", "gpt-9", fails=True))["error"]
    assert (missing["class"], missing["status"], missing["code"]) == ("NotFoundError", 404, "model_not_found")
    double.plays(Sse(words("a", "b"), ending=Ending.CUT))
    broken = (await run(here, "stream", "gpt", fails=True))["error"]
    assert broken["code"] == "provider_failed"
    double.requests.clear()
    double.plays(Sse(words("a", "b", "c") + DONE, ending=Ending.STALL))
    assert (await run(here, "aborted", "gpt"))["chunks"] == 1
    await asyncio.wait_for((await double.received()).left.wait(), 5)
