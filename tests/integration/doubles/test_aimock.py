"""aimock plays whole tool loops, which OpenAI's own JavaScript client then runs against it."""

from typing import Any

import pytest

from tests.doubles.aimock import Aimock, calls, says
from tests.doubles.answers import Json, Refusal, Sse
from tests.doubles.openai_js import run_js
from tests.doubles.provider import Double


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_loop_with_two_calls_at_once(aimock: Aimock, stream: bool) -> None:
    aimock.plays(
        calls("weather", ("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Graz"})),
        says("weather", "Both are mild.", after_tools=True),
    )
    seen = await run_js("tools", f"{aimock.url}/v1", "k", model="gpt-4o", prompt="What is the weather?", stream=stream)
    assert seen.get("called") == ["Oslo", "Graz"], seen
    assert seen["text"] == "Both are mild."
    first, second = aimock.requests()
    assert first["body"]["tools"][0]["function"]["name"] == "get_weather"
    assert [message["role"] for message in second["body"]["messages"]] == ["user", "assistant", "tool", "tool"]


async def test_responses(aimock: Aimock) -> None:
    aimock.plays(says("hello", "Hi there."))
    seen = await run_js("responses", f"{aimock.url}/v1", "k", model="gpt-4o")
    assert seen.get("text") == "Hi there.", seen
    seen = await run_js("responses_stream", f"{aimock.url}/v1", "k", model="gpt-4o")
    assert seen["types"][0] == "response.created"
    assert seen["types"][-1] == "response.completed"


async def test_chat_stream_and_what_the_client_raises() -> None:
    chunk: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    stream = b"".join(
        b"data: %b\n\n" % data
        for data in (
            Json({**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}]}).body,
            Json({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).body,
            b"[DONE]",
        )
    )
    async with Double() as double:
        double.plays(Sse(stream), Sse(stream), Refusal(429, {"error": {"message": "slow down", "code": "rate"}}))
        url = f"{double.url}/v1"
        assert (await run_js("stream", url, "key", model="m"))["text"] == "Hi"
        answer = (await run_js("accumulated", url, "key", model="m"))["answer"]
        assert answer["choices"][0]["message"]["content"] == "Hi"
        error = (await run_js("chat", url, "key", model="m"))["error"]
        assert (error["class"], error["status"], error["code"]) == ("RateLimitError", 429, "rate")
        assert double.requests[0].headers["authorization"] == "Bearer key"
