"""The official `openai` package, unchanged, against the models application on a real HTTP server and the real model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import orjson
import pytest

from configs.catalog import load_catalog
from serve_app.core.telemetry import NullMetrics
from serve_app.inference.completions import Completions
from serve_app.inference.engines.llamacpp import LlamaCppEngine
from serve_app.inference.weights import locate
from tests.conftest import Server, Tenant, new_tenant
from tests.routers import running_router, settings

MODEL = "smollm2-135m"


class InProcess:
    """Implements `Inference` without Ray between."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    def stream(self, model_id: str, request: Any, trace: Any) -> Any:
        return self._completions.stream(request)

    async def complete(self, model_id: str, request: Any, trace: Any) -> bytes:
        return await self._completions.complete(request)

    async def embed(self, model_id: str, request: Any, trace: Any) -> bytes:
        raise AssertionError("no embeddings here")


@pytest.fixture(scope="module")
async def completions() -> AsyncIterator[Completions]:
    model = load_catalog().models[0]
    engine = LlamaCppEngine(locate(model.source), model.context_tokens, 2, threads=2)
    loaded = Completions(model, engine, 2, 8, NullMetrics())
    yield loaded
    await loaded.close()


@pytest.fixture(scope="module")
async def caller(postgres: Server) -> Tenant:
    return await new_tenant(postgres)


@pytest.fixture(scope="module")
async def url(completions: Completions, postgres: Server, valkey: Server) -> AsyncIterator[str]:
    made_of = settings(postgres.url, valkey.url)
    http = made_of.http.model_copy(update={"max_body_bytes": 1_000_000})
    made_of = made_of.model_copy(update={"http": http})
    async with running_router(made_of, load_catalog(), inference=InProcess(completions)) as router:
        yield f"{router.url}/v1"


@pytest.fixture
async def client(url: str, caller: Tenant) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key=caller.key, max_retries=0) as opened:
        yield opened


def ask(text: str = "Name three colours.", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0, **more}


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert MODEL in [model.id async for model in client.models.list()]
    assert (await client.models.retrieve(MODEL)).owned_by == "huggingface"


async def test_a_whole_answer_and_a_stream_say_the_same(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(**ask())
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 16
    assert whole.choices[0].finish_reason == "length"
    text, usage = "", None
    stream = await client.chat.completions.create(**ask(stream=True, stream_options={"include_usage": True}))
    async for chunk in stream:
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert usage is not None
    assert usage.completion_tokens == 16


async def test_an_answer_can_be_sent_back(client: openai.AsyncOpenAI) -> None:
    first = await client.chat.completions.create(**ask())
    said: Any = first.choices[0].message
    messages = [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "Go on."}]
    assert (await client.chat.completions.create(**{**ask(), "messages": messages})).choices


async def test_the_stream_helper_and_a_parsed_schema(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(**ask(stop=["e"])) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content
    wanted = {
        "type": "json_schema",
        "json_schema": {
            "name": "n",
            "schema": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]},
        },
    }
    answer = await client.chat.completions.create(**ask("A number?", max_tokens=60, response_format=wanted))
    assert isinstance(orjson.loads(answer.choices[0].message.content or "")["n"], int)


async def test_errors_become_the_packages_own(client: openai.AsyncOpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(**{**ask(), "model": "gpt-9"})
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(**ask(extra_body={"colour": "red"}))
    assert wrong.value.code == "unknown_parameter"
    assert wrong.value.request_id
    with pytest.raises(openai.BadRequestError) as long:
        await client.chat.completions.create(**ask("word " * 9000, stream=True))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as large:
        await client.chat.completions.create(**ask("x" * 1_100_000))
    assert large.value.status_code == 413
    async with openai.AsyncOpenAI(base_url=url, api_key="aek_00000000_wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            await stranger.models.list()
    assert refused.value.code == "invalid_api_key"


async def test_a_client_that_leaves_frees_the_engine(completions: Completions, url: str, caller: Tenant) -> None:
    body = ask("Tell me a long story.", max_tokens=2000, stream=True)
    headers = {"authorization": f"Bearer {caller.key}"}
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", f"{url}/chat/completions", json=body, headers=headers) as answer,
    ):
        await anext(answer.aiter_bytes())
        assert completions.running == 1
    async with asyncio.timeout(5):
        while completions.running:
            await asyncio.sleep(0.01)
