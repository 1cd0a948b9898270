"""The kernel around an engine: framing, defaults, cancellation, admission, metrics, failures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from configs.catalog import ModelEntry, load_catalog
from serve_app.core.errors import ContextLengthError, EngineError, OverloadedError, UnavailableError
from serve_app.inference.completions import Completions
from tests.unit.inference.scripted import ScriptedEngine

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


class Recorder:
    """Metrics kept in memory."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], float] = {}
        self.observed: list[str] = []

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        self.counts[name, tags["direction"]] = self.counts.get((name, tags["direction"]), 0) + value

    def observe(self, name: str, value: float, **tags: str) -> None:
        self.observed.append(name)


def model() -> ModelEntry:
    return load_catalog().models[0]


@asynccontextmanager
async def serving(
    engine: ScriptedEngine, slots: int = 1, max_queued: int = 4, metrics: Recorder | None = None
) -> AsyncIterator[Completions]:
    completions = Completions(model(), engine, slots, max_queued, metrics or Recorder())
    try:
        yield completions
    finally:
        engine.go_on.set()
        await completions.close()


def events(raw: bytes) -> list[Any]:
    assert raw.endswith(b"\n\n")
    lines = raw.removesuffix(b"\n\n").split(b"\n\n")
    assert all(line.startswith(b"data: ") and b"\n" not in line for line in lines)
    assert lines[-1] == b"data: [DONE]"
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]


async def test_a_stream_is_framed_and_names_the_catalogue_model() -> None:
    async with serving(ScriptedEngine(["Hel", "lo\n\nyou"])) as completions:
        chunks = events(b"".join([batch async for batch in completions.stream(REQUEST)]))
    assert {chunk["model"] for chunk in chunks} == {"smollm2-135m"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello\n\nyou"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_comes_last_when_asked_for() -> None:
    async with serving(ScriptedEngine(["a"])) as completions:
        request = {**REQUEST, "stream_options": {"include_usage": True}}
        chunks = events(b"".join([batch async for batch in completions.stream(request)]))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 1
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_the_first_word_leaves_at_once_with_the_role() -> None:
    engine = ScriptedEngine(["first", "second"], pause_at=1)
    async with serving(engine) as completions:
        answer = completions.stream(REQUEST)
        first = await asyncio.wait_for(anext(answer), 5)
        assert b'"role":"assistant"' in first
        assert b"first" in first
        engine.go_on.set()
        assert b"second" in b"".join([batch async for batch in answer])


async def test_words_are_gathered_into_batches() -> None:
    async with serving(ScriptedEngine(["w"] * 100, delay_s=0.002)) as completions:
        batches = [batch async for batch in completions.stream(REQUEST)]
    assert len(events(b"".join(batches))) == 102
    assert len(batches) < 40


async def test_a_whole_answer() -> None:
    async with serving(ScriptedEngine(["a", "b"])) as completions:
        body = orjson.loads(await completions.complete(REQUEST))
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["completion_tokens"] == 2


async def test_the_request_wins_over_the_catalogue_and_null_means_absent() -> None:
    engine = ScriptedEngine([])
    async with serving(engine) as completions:
        await completions.complete({**REQUEST, "temperature": None, "top_p": 0.5, "max_completion_tokens": 7})
        await completions.complete(REQUEST)
    first, second = engine.requests
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.2, 0.5, 7)
    assert second["max_tokens"] == model().max_output_tokens


async def test_closing_a_stream_stops_the_engine_and_frees_the_slot() -> None:
    engine = ScriptedEngine(["a"] * 1000, pause_at=1)
    async with serving(engine) as completions:
        answer = completions.stream(REQUEST)
        await anext(answer)
        await answer.aclose()
        engine.pause_at = None
        assert await asyncio.wait_for(completions.complete(REQUEST), 5)
        assert engine.said == 1001


async def test_a_cancelled_whole_answer_stops_the_engine() -> None:
    engine = ScriptedEngine(["a", "b"], pause_at=1)
    async with serving(engine) as completions:
        task = asyncio.create_task(completions.complete(REQUEST))
        while not engine.said:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        engine.pause_at = None
        await asyncio.wait_for(completions.complete(REQUEST), 5)


async def test_no_more_than_the_slots_run_and_no_more_than_the_queue_waits() -> None:
    engine = ScriptedEngine(["a", "b"], pause_at=1)
    async with serving(engine, slots=2, max_queued=3) as completions:
        tasks = [asyncio.create_task(completions.complete({**REQUEST, "max_tokens": 5})) for _ in range(5)]
        while engine.running < 2:
            await asyncio.sleep(0.005)
        with pytest.raises(OverloadedError):
            await anext(completions.stream(REQUEST))
        engine.go_on.set()
        await asyncio.gather(*tasks)
    assert engine.most_running == 2


async def test_a_prompt_guessed_too_long_gives_back_what_it_does_not_use() -> None:
    engine = ScriptedEngine(["a", "b"], pause_at=1, prompt_tokens=50)
    async with serving(engine, slots=2) as completions:
        long = {"messages": [{"role": "user", "content": "x" * 15_000}], "max_tokens": 5}
        tasks = [asyncio.create_task(completions.complete(long)) for _ in range(2)]
        async with asyncio.timeout(5):
            while engine.running < 2:
                await asyncio.sleep(0.005)
        engine.go_on.set()
        await asyncio.gather(*tasks)


async def test_a_prompt_guessed_too_short_waits_for_the_room_it_needs() -> None:
    """Together the two would overflow the context they share, which an engine answers by failing both."""
    engine = ScriptedEngine(["a", "b"], pause_at=0, prompt_tokens=5000)
    async with serving(engine, slots=2) as completions:
        tasks = [asyncio.create_task(completions.complete({**REQUEST, "max_tokens": 100})) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(engine.requests) < 2 or engine.running > 1:
                await asyncio.sleep(0.005)
        engine.go_on.set()
        bodies = await asyncio.gather(*tasks)
    assert len(engine.requests) == 3
    assert [orjson.loads(body)["choices"][0]["message"]["content"] for body in bodies] == ["ab", "ab"]


async def test_a_waiting_request_whose_client_leaves_is_forgotten() -> None:
    engine = ScriptedEngine(["a", "b"], pause_at=1)
    async with serving(engine, max_queued=1) as completions:
        running = asyncio.create_task(completions.complete(REQUEST))
        while not engine.said:
            await asyncio.sleep(0.005)
        waiting = asyncio.create_task(completions.complete(REQUEST))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        next_in_line = asyncio.create_task(completions.complete(REQUEST))
        await asyncio.sleep(0.02)
        engine.go_on.set()
        await asyncio.gather(running, next_in_line)
    assert len(engine.requests) == 2


async def test_an_error_before_the_first_word_and_one_after() -> None:
    async with serving(ScriptedEngine([], error=ContextLengthError("too long"))) as completions:
        with pytest.raises(ContextLengthError):
            await anext(completions.stream(REQUEST))
    async with serving(ScriptedEngine(["a"], error=RuntimeError("secret detail"))) as completions:
        answer = completions.stream(REQUEST)
        assert b'"a"' in await anext(answer)
        with pytest.raises(EngineError) as caught:
            await anext(answer)
        assert "secret" not in caught.value.message
        with pytest.raises(EngineError):
            await completions.complete(REQUEST)


async def test_tokens_and_the_first_token_are_measured() -> None:
    metrics = Recorder()
    async with serving(ScriptedEngine(["a", "b", "c"]), metrics=metrics) as completions:
        await completions.complete(REQUEST)
    assert metrics.counts == {("aether_model_tokens", "read"): 5, ("aether_model_tokens", "written"): 3}
    assert metrics.observed == ["aether_model_first_token_seconds"]


async def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    engine = ScriptedEngine(["a", "b"], pause_at=1)
    completions = Completions(model(), engine, 1, 4, Recorder())
    answer = completions.stream(REQUEST)
    await anext(answer)
    await completions.check()
    await completions.close()
    with pytest.raises(UnavailableError):
        await anext(answer)
    assert engine.is_closed
    with pytest.raises(UnavailableError):
        await completions.complete(REQUEST)
    with pytest.raises(EngineError):
        await completions.check()
