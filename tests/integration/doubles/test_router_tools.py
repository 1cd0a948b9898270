"""Whole tool loops through the router: aimock plays the provider, the vendors' own clients run the loop."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.conftest import Server, Tenant
from tests.doubles.aimock import Aimock, calls, says
from tests.doubles.openai_js import run_js
from tests.routers import catalog_of, model, provider, running_router, settings

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
async def url(postgres: Server, valkey: Server, aimock: Aimock) -> AsyncIterator[str]:
    catalog = catalog_of(
        [provider("mock", f"{aimock.url}/v1", "openai-chat", keys=["MOCK"])], [model("gpt-4o", "mock")]
    )
    async with running_router(settings(postgres.url, valkey.url), catalog, {"MOCK": "sk-mock"}) as router:
        yield router.url


def two_cities(aimock: Aimock) -> None:
    aimock.plays(
        calls("weather", ("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Graz"})),
        says("weather", "Both are mild.", after_tools=True),
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_in_its_own_dialect(url: str, tenant: Tenant, aimock: Aimock, stream: bool) -> None:
    two_cities(aimock)
    seen = await run_js("tools", f"{url}/v1", tenant.key, model="gpt-4o", prompt="What is the weather?", stream=stream)
    assert seen.get("called") == ["Oslo", "Graz"], seen
    assert seen["text"] == "Both are mild."
    _, second = aimock.requests()
    assert [message["role"] for message in second["body"]["messages"]] == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_client_across_dialects(url: str, tenant: Tenant, aimock: Aimock, stream: bool) -> None:
    two_cities(aimock)
    messages: list[Any] = [{"role": "user", "content": "What is the weather?"}]
    tools: list[Any] = [{"name": "get_weather", "description": "The weather", "input_schema": WEATHER}]
    called: list[str] = []
    async with anthropic.AsyncAnthropic(base_url=url, api_key=tenant.key, max_retries=0) as client:
        for _ in range(3):
            asked: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 200, "messages": messages, "tools": tools}
            if stream:
                async with client.messages.stream(**asked) as answering:
                    answer = await answering.get_final_message()
            else:
                answer = await client.messages.create(**asked)
            uses = [block for block in answer.content if block.type == "tool_use"]
            if not uses:
                break
            assert answer.stop_reason == "tool_use"
            called += [str(use.input["city"]) for use in uses]
            results = [{"type": "tool_result", "tool_use_id": use.id, "content": "mild"} for use in uses]
            messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    assert called == ["Oslo", "Graz"]
    assert [block.text for block in answer.content if block.type == "text"] == ["Both are mild."]
    assert [message["role"] for message in aimock.requests()[1]["body"]["messages"]] == [
        "user", "assistant", "tool", "tool",
    ]  # fmt: skip
