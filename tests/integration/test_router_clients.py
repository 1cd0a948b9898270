"""The official `openai` and `anthropic` packages, unchanged, before providers of every dialect."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from serve_app.core.db.engine import Database
from tests.conftest import Server, Tenant
from tests.doubles.answers import Fixture, Json, Sse
from tests.doubles.provider import Double
from tests.integration.routed import Routed, all_rested, chat_answer, message_answer, router_of, used_by
from tests.routers import RunningRouter, catalog_of, model, provider

KEYS = {"CLIENTS_ONE": "sk-one"}
MODELS = ("gpt", "mistral", "claude", "gemini")
HI: Any = [{"role": "user", "content": "hi"}]
PIXEL = base64.b64encode(b"\x89PNG not really").decode()
PDF = base64.b64encode(b"%PDF-1.7 not really").decode()
WEATHER = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
ANTHROPIC_TOOL: Any = {"name": "get_weather", "input_schema": WEATHER}


class City(BaseModel):
    name: str


def gemini_answer(*parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 4, "thoughtsTokenCount": 2,
                          "totalTokenCount": 14},
        "modelVersion": "gemini-x", "responseId": "g1",
    }  # fmt: skip


def response_answer(*output: dict[str, Any], response_id: str = "resp_1") -> dict[str, Any]:
    text = {"type": "output_text", "text": "hi", "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    return {
        "id": response_id, "object": "response", "created_at": 1, "status": "completed", "model": "gpt", "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "output": list(output) or [message],
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4,
                  "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}},
    }  # fmt: skip


def says(double: Double, text: str) -> None:
    """A whole answer, whoever is asked."""
    double.plays(Json(chat_answer(text)), on="/chat/completions")
    double.plays(Json(message_answer({"type": "text", "text": text})), on="/messages")
    double.plays(Json(gemini_answer({"text": text})), on=":generateContent")


def streams(double: Double, name: str) -> None:
    for dialect, path in (("openai-chat", "/chat/completions"), ("openai-responses", "/responses"),
                          ("anthropic", "/messages"), ("gemini", ":streamGenerateContent")):  # fmt: skip
        name_there = "parallel_function_calls" if (dialect, name) == ("openai-responses", "parallel_tools") else name
        double.plays(Fixture(f"{dialect}/{name_there}.sse"), on=path)


@pytest.fixture(scope="module")
async def provider_double() -> AsyncIterator[Double]:
    async with Double() as double:
        yield double


@pytest.fixture(scope="module")
async def router(postgres: Server, valkey: Server, provider_double: Double) -> AsyncIterator[RunningRouter]:
    url, keys = provider_double.url, list(KEYS)
    catalog = catalog_of(
        [
            provider("openai", f"{url}/v1", "openai-chat", "openai-responses", keys=keys, embeddings=True),
            provider("mistral", f"{url}/v1", "openai-chat", keys=keys),
            provider("anthropic", url, "anthropic", keys=keys),
            provider("google", url, "gemini", keys=keys),
        ],
        [
            model("gpt", "openai"), model("mistral", "mistral"), model("claude", "anthropic"),
            model("gemini", "google", name="gemini-3-pro"),
            model("embed", "openai", kind="embeddings", max_output_tokens=0, modalities=["text"]),
        ],
    )  # fmt: skip
    async with router_of(postgres, valkey, catalog, KEYS) as router:
        yield router


@pytest.fixture
async def double(provider_double: Double, valkey: Server) -> Double:
    await all_rested(valkey)
    provider_double.requests.clear()
    return provider_double


@pytest.fixture
async def here(router: RunningRouter, database: Database, tenant: Tenant) -> AsyncIterator[Routed]:
    async with used_by(tenant, router, database) as here:
        yield here


@pytest.fixture
async def chat(here: Routed) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key=here.tenant.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(here: Routed) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=here.url, api_key=here.tenant.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", MODELS)
async def test_text_by_each_client(
    name: str, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, double: Double
) -> None:
    says(double, "Grüße")
    completion = await chat.chat.completions.create(model=name, messages=HI)
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("Grüße", "stop")
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 0
    message = await claude.messages.create(model=name, messages=HI, max_tokens=50)
    assert [block.text for block in message.content if block.type == "text"] == ["Grüße"]
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", completion.usage.completion_tokens)


@pytest.mark.parametrize("name", MODELS)
async def test_streams_by_each_client(
    name: str, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, double: Double
) -> None:
    streams(double, "text")
    said = {"claude": "Hello!", "gemini": "AI learns from data. Grüße 👋"}.get(name, "Hello! Grüße 👋")
    async with chat.chat.completions.stream(model=name, messages=HI, stream_options={"include_usage": True}) as stream:
        final = await stream.get_final_completion()
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == (said, "stop")
    assert final.usage is not None
    assert final.usage.completion_tokens > 0
    async with claude.messages.stream(model=name, messages=HI, max_tokens=50) as told:
        assert "".join([text async for text in told.text_stream]) == said
        message = await told.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", final.usage.completion_tokens)
    response: Any = None
    async for event in await chat.responses.create(model=name, input="hi", stream=True):
        response = event
    assert response.type == "response.completed"
    assert response.response.output_text == ("Hi there! How can I assist you today?" if name == "gpt" else said)


@pytest.mark.parametrize("name", MODELS)
async def test_parallel_tools_there_and_back(
    name: str, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, double: Double
) -> None:
    streams(double, "parallel_tools")
    async with chat.chat.completions.stream(model=name, messages=HI, tools=[TOOL]) as stream:
        answer = (await stream.get_final_completion()).choices[0]
    calls = answer.message.tool_calls or []
    assert (len(calls), answer.finish_reason) == (2, "tool_calls")
    assert len({call.id for call in calls}) == 2
    says(double, "done")
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": f"result of {call.id}"} for call in calls]
    said: Any = answer.message.model_dump(exclude_none=True, exclude={"parsed": True})
    for call in said["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    final = await chat.chat.completions.create(model=name, messages=[*HI, said, *results], tools=[TOOL])
    assert final.choices[0].message.content == "done"
    assert b"result of " + calls[1].id.encode() in double.requests[-1].body

    streams(double, "parallel_tools")
    async with claude.messages.stream(model=name, messages=HI, tools=[ANTHROPIC_TOOL], max_tokens=50) as told:
        message = await told.get_final_message()
    uses = [block for block in message.content if block.type == "tool_use"]
    assert ([use.name for use in uses], message.stop_reason) == ([call.function.name for call in calls], "tool_use")
    says(double, "done")
    found: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": f"result of {use.id}"} for use in uses]
    turns: Any = [*HI, {"role": "assistant", "content": message.content}, {"role": "user", "content": found}]
    done = await claude.messages.create(model=name, messages=turns, tools=[ANTHROPIC_TOOL], max_tokens=50)
    assert [block.text for block in done.content if block.type == "text"] == ["done"]
    assert b"result of " + uses[1].id.encode() in double.requests[-1].body
    if name == "gemini":
        # Each time the signature Google gave with the first call.
        assert double.requests[-1].body.count(b"CvcBAVSoXO4fL/8=") == 1


@pytest.mark.parametrize("name", MODELS)
async def test_structured_output(
    name: str, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, double: Double
) -> None:
    says(double, '{"name":"Paris"}')
    completion = await chat.chat.completions.parse(model=name, messages=HI, response_format=City)
    assert completion.choices[0].message.parsed == City(name="Paris")
    message = await claude.messages.parse(model=name, messages=HI, max_tokens=50, output_format=City)
    assert message.parsed_output == City(name="Paris")
    places = {"claude": ("output_config", "format", "schema"), "gemini": ("generationConfig", "responseJsonSchema")}
    for request in double.requests:
        there = request.json()
        for part in places.get(name, ("response_format", "json_schema", "schema")):
            there = there[part]
        assert there["properties"]["name"]["type"] == "string"


@pytest.mark.parametrize("name", MODELS)
async def test_images_and_documents(
    name: str, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, double: Double
) -> None:
    says(double, "seen")
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
    ]
    await chat.chat.completions.create(model=name, messages=[{"role": "user", "content": parts}])
    blocks: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "document", "title": "a.pdf",
         "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
    ]  # fmt: skip
    await claude.messages.create(model=name, messages=[{"role": "user", "content": blocks}], max_tokens=50)
    for request in double.requests:
        sent = request.json()
        got = sent["contents"][0]["parts"] if name == "gemini" else sent["messages"][0]["content"]
        match name:
            case "claude":
                assert [part["source"]["data"] for part in got[1:]] == [PIXEL, PDF]
            case "gemini":
                assert [part["inlineData"]["data"] for part in got[1:]] == [PIXEL, PDF]
            case _:
                assert got[1:] == parts[1:]


async def test_thinking_and_its_signature_survive_at_home(claude: anthropic.AsyncAnthropic, double: Double) -> None:
    double.plays(Fixture("anthropic/thinking.sse"), on="/messages")
    async with claude.messages.stream(
        model="claude", messages=HI, max_tokens=4000, thinking={"type": "enabled", "budget_tokens": 2000}
    ) as told:
        message = await told.get_final_message()
    thought = message.content[0]
    assert thought.type == "thinking"
    assert thought.signature.startswith("EqQBCgIYAhIM")
    says(double, "21")
    turns: Any = [*HI, {"role": "assistant", "content": message.content}, {"role": "user", "content": "sure?"}]
    await claude.messages.create(model="claude", messages=turns, max_tokens=50)
    sent = double.requests[-1].json()["messages"][1]["content"][0]
    assert (sent["thinking"], sent["signature"]) == (thought.thinking, thought.signature)


async def test_thinking_survives_through_the_other_vendors_client(chat: openai.AsyncOpenAI, double: Double) -> None:
    thinking = {"type": "thinking", "thinking": "hmm", "signature": "c2lnbmVk"}
    double.plays(Json(message_answer(thinking, {"type": "text", "text": "21"})), on="/messages")
    first = await chat.responses.create(
        model="claude", input="hi", reasoning={"effort": "low"}, include=["reasoning.encrypted_content"]
    )
    assert [item.type for item in first.output] == ["reasoning", "message"]
    items: Any = [*HI, *(item.model_dump(exclude_none=True) for item in first.output), *HI]
    await chat.responses.create(model="claude", input=items, store=False)
    assert double.requests[-1].json()["messages"][1]["content"][0] == thinking
    # And without sending anything back: what is stored has it as well.
    await chat.responses.create(model="claude", input="sure?", previous_response_id=first.id)
    assert double.requests[-1].json()["messages"][1]["content"][0] == thinking
    # Another vendor could not check it: its words and its signature do not go there.
    says(double, "21")
    await chat.responses.create(model="mistral", input="sure?", previous_response_id=first.id)
    assert b"c2lnbmVk" not in double.requests[-1].body


async def test_anothers_thought_signature_comes_back_to_it(claude: anthropic.AsyncAnthropic, double: Double) -> None:
    parts = ({"text": "hmm", "thought": True}, {"text": "21", "thoughtSignature": "Z29vZ2xl"})
    double.plays(Json(gemini_answer(*parts)), on=":generateContent")
    message = await claude.messages.create(model="gemini", messages=HI, max_tokens=4000)
    turns: Any = [*HI, {"role": "assistant", "content": message.content}, {"role": "user", "content": "sure?"}]
    await claude.messages.create(model="gemini", messages=turns, max_tokens=50)
    assert b"Z29vZ2xl" in double.requests[-1].body
    says(double, "21")
    await claude.messages.create(model="claude", messages=turns, max_tokens=50)
    assert b"Z29vZ2xl" not in double.requests[-1].body
    assert b"aether:" not in double.requests[-1].body


@pytest.mark.parametrize("name", ["gpt", "claude"])
async def test_stored_responses(name: str, chat: openai.AsyncOpenAI, double: Double) -> None:
    says(double, "hi")
    double.plays(Json(response_answer(response_id="resp_1")), on="/responses")
    first = await chat.responses.create(model=name, input="my name is Ada", instructions="be brief")
    assert (first.output_text, first.status) == ("hi", "completed")
    assert (await chat.responses.retrieve(first.id)).output_text == "hi"
    items = [item.to_dict() async for item in chat.responses.input_items.list(first.id)]
    assert [item["content"] for item in items] == [[{"type": "input_text", "text": "my name is Ada"}]]
    double.plays(Json(response_answer(response_id="resp_2")), on="/responses")
    second = await chat.responses.create(model=name, input="what is it?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert (await chat.responses.retrieve(second.id)).previous_response_id == first.id
    sent = double.requests[-1].json()
    assert "previous_response_id" not in sent
    turns = sent["input"] if name == "gpt" else sent["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert "Ada" in str(turns[0])
    # Instructions are for one response only.
    assert "be brief" not in str(sent)
    await chat.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await chat.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as gone:
        await chat.responses.create(model=name, input="and now?", previous_response_id=second.id)
    assert gone.value.code == "previous_response_not_found"


async def test_a_streamed_response_can_be_gone_on_from(chat: openai.AsyncOpenAI, double: Double) -> None:
    streams(double, "text")
    for name in MODELS:
        ids = []
        async for event in await chat.responses.create(model=name, input="hi", stream=True):
            if event.type == "response.completed":
                ids.append(event.response.id)
                await chat.responses.retrieve(ids[0])
        on = await chat.responses.create(model=name, input="on", previous_response_id=ids[0], stream=True)
        told = [event.response.previous_response_id async for event in on if hasattr(event, "response")]
        assert len(told) >= 2
        assert set(told) == {ids[0]}
        # The double's next answer has the same id.
        await chat.responses.delete(ids[0])


async def test_embeddings_models_and_token_counts(
    chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, double: Double
) -> None:
    floats = base64.b64encode(b"\x00\x00\x80\x3f" * 3).decode()
    data = [{"object": "embedding", "index": 0, "embedding": floats}]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    double.plays(Json({"object": "list", "data": data, "model": "embed", "usage": usage}), on="/embeddings")
    assert (await chat.embeddings.create(model="embed", input="hi")).data[0].embedding == [1.0, 1.0, 1.0]
    with pytest.raises(openai.BadRequestError):
        await chat.embeddings.create(model="gpt", input="hi")
    with pytest.raises(openai.BadRequestError):
        await chat.chat.completions.create(model="embed", messages=HI)
    assert {one.id async for one in chat.models.list()} >= {*MODELS, "embed"}
    assert {one.id async for one in claude.models.list()} == set(MODELS)
    assert (await claude.models.retrieve("gemini")).display_name == "gemini"
    double.plays(Json({"input_tokens": 14}), on="/messages/count_tokens")
    assert (await claude.messages.count_tokens(model="claude", messages=HI)).input_tokens == 14
    estimated = await claude.messages.with_raw_response.count_tokens(model="gemini", messages=HI)
    assert estimated.headers["x-aether-estimated"] == "true"


async def test_errors_become_the_packages_own(
    chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, double: Double
) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await chat.chat.completions.create(model="gpt-9", messages=HI)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.create(model="gpt-9", messages=HI, max_tokens=5)
    said = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"full"}}\n\n'
    for path in ("/chat/completions", "/messages", ":streamGenerateContent"):
        double.plays(Sse(said), on=path)
    for name in MODELS:
        with pytest.raises(openai.InternalServerError):
            await chat.chat.completions.create(model=name, messages=HI, stream=True)
        with pytest.raises(anthropic.InternalServerError):
            await claude.messages.create(model=name, messages=HI, max_tokens=5, stream=True)
