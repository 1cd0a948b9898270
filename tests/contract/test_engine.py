"""What every engine must do, run against the real llama.cpp and, where it is installed, vLLM, with the model that ships."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import jsonschema
import orjson
import pytest

from configs.catalog import ModelEntry, load_catalog
from serve_app.core.errors import ContextLengthError, EngineError, InvalidRequestError, OverloadedError
from serve_app.core.telemetry import NullMetrics
from serve_app.inference.completions import Completions
from serve_app.inference.engines.llamacpp import LlamaCppEngine
from serve_app.inference.weights import locate
from tests.contract.vllm_served import served_by_vllm

CONTEXT_TOKENS = 1024
SLOTS = 4
ENGINES = [
    "llamacpp",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.skipif(find_spec("vllm") is None, reason="the extra vllm is not installed"),
            pytest.mark.timeout(600),
        ],
    ),
]


class Answers(Protocol):
    """What a loaded model does, whoever runs it."""

    def stream(self, request: dict[str, Any]) -> AsyncGenerator[bytes, None]: ...

    async def complete(self, request: dict[str, Any]) -> bytes: ...


def small(entry: ModelEntry) -> ModelEntry:
    """The same weights with a short context, so that filling it takes seconds."""
    return entry.model_copy(update={"context_tokens": CONTEXT_TOKENS, "max_output_tokens": 512})


def load(slots: int, max_queued: int = 8) -> Completions:
    model = small(load_catalog().models[0])
    engine = LlamaCppEngine(locate(model.source), model.context_tokens, slots, threads=2)
    return Completions(model, engine, slots, max_queued, NullMetrics())


@pytest.fixture(scope="module")
async def completions() -> AsyncIterator[Completions]:
    loaded = load(slots=SLOTS)
    yield loaded
    await loaded.close()


@pytest.fixture(scope="module", params=ENGINES)
async def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Answers]:
    if request.param == "llamacpp":
        loaded = load(SLOTS)
        yield loaded
        await loaded.close()
        return
    entry = small(load_catalog().models[0])
    async with served_by_vllm(entry, SLOTS, tmp_path_factory.mktemp("vllm")) as served:
        yield served


@pytest.fixture(scope="module")
async def single() -> AsyncIterator[Completions]:
    loaded = load(slots=1, max_queued=1)
    yield loaded
    await loaded.close()


def ask(text: str = "Name three colours.", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 24, "temperature": 0, **more}


async def stream(model: Answers, request: dict[str, Any]) -> list[Any]:
    raw = b"".join([batch async for batch in model.stream(request)])
    *frames, done = raw.removesuffix(b"\n\n").split(b"\n\n")
    assert done == b"data: [DONE]"
    return [orjson.loads(frame.removeprefix(b"data: ")) for frame in frames]


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


async def whole(model: Answers, request: dict[str, Any]) -> Any:
    return orjson.loads(await model.complete(request))


async def test_a_stream_and_a_whole_answer_say_the_same(model: Answers) -> None:
    chunks = await stream(model, ask(stream_options={"include_usage": True}))
    body = await whole(model, ask())
    assert text_of(chunks) == body["choices"][0]["message"]["content"] != ""
    assert chunks[-1]["usage"]["completion_tokens"] == body["usage"]["completion_tokens"] == 24
    assert body["choices"][0]["finish_reason"] == "length"
    for said in (*chunks, body):
        assert said["model"] == "smollm2-135m"
        assert "timings" not in said


async def test_a_stop_sequence_ends_the_answer_and_is_left_out(model: Answers) -> None:
    full = (await whole(model, ask()))["choices"][0]["message"]["content"]
    stop = full[10:14]
    choice = (await whole(model, ask(stop=[stop])))["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == full.partition(stop)[0]


async def test_a_seed_repeats_an_answer(model: Answers) -> None:
    hot = ask("Invent a word.", temperature=1.5)
    answers = [text_of(await stream(model, {**hot, "seed": seed})) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


async def test_a_json_schema_is_kept_to(model: Answers) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    chunks = await stream(model, ask("Describe a person.", max_tokens=100, response_format=wanted))
    jsonschema.validate(orjson.loads(text_of(chunks)), schema)


async def test_json_mode(model: Answers) -> None:
    body = await whole(model, ask("{}", max_tokens=60, response_format={"type": "json_object"}))
    if body["choices"][0]["finish_reason"] == "stop":
        assert isinstance(orjson.loads(body["choices"][0]["message"]["content"]), dict)


@pytest.mark.parametrize(
    "schema",
    [{"type": "string", "pattern": "(?=a)b"}, {"$ref": "http://127.0.0.1:1/x.json"}, {"type": "objekt"}],
)
async def test_a_schema_that_cannot_be_kept_to_is_refused(model: Answers, schema: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(InvalidRequestError) as caught:
        await model.complete(ask(response_format=wanted))
    assert caught.value.details["param"] == "response_format"


async def test_a_pattern_llamacpp_would_take_for_any_string_is_refused(completions: Completions) -> None:
    schema = {"type": "string", "pattern": "abc"}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(InvalidRequestError, match="anchor"):
        await completions.complete(ask(response_format=wanted))


async def test_clients_that_leave_free_their_slots(model: Answers) -> None:
    stories = [model.stream(ask(f"Tell me a long story about {number}.", max_tokens=500)) for number in range(SLOTS)]
    await asyncio.gather(*(anext(story) for story in stories))
    for story in stories:
        await story.aclose()
    started = time.perf_counter()
    await anext(model.stream(ask("Hi", max_tokens=1)))
    assert time.perf_counter() - started < 5.0  # generous: it takes about 0.2 s, the stories take many


async def test_log_probabilities(model: Answers) -> None:
    choice = (await whole(model, ask(max_tokens=3, logprobs=True, top_logprobs=2)))["choices"][0]
    assert len(choice["logprobs"]["content"]) == 3
    assert all(len(token["top_logprobs"]) == 2 for token in choice["logprobs"]["content"])


async def test_a_prompt_longer_than_the_context(model: Answers) -> None:
    for attempt in (model.complete(ask("word " * 3000)), anext(model.stream(ask("word " * 3000)))):
        with pytest.raises(ContextLengthError) as caught:
            await attempt
        assert caught.value.details["context_tokens"] == CONTEXT_TOKENS
        assert caught.value.details.get("prompt_tokens", 3001) > 3000  # vLLM stops counting at the limit
    assert (await whole(model, ask()))["choices"]


async def test_answers_that_would_overflow_the_shared_context_take_turns(completions: Completions) -> None:
    """Each digit is a token, so the guess from the bytes is too low; together these four want twice the context."""
    requests = [ask(f"{number}" * 300, max_tokens=40) for number in range(4)]
    bodies = await asyncio.gather(*(whole(completions, request) for request in requests))
    assert all(body["usage"]["prompt_tokens"] > 300 for body in bodies)
    assert all(body["choices"][0]["finish_reason"] in {"stop", "length"} for body in bodies)


async def test_a_request_the_engine_cannot_read(model: Answers) -> None:
    with pytest.raises((InvalidRequestError, EngineError)) as caught:
        await model.complete({"messages": [{"role": "user", "content": 5}]})
    assert "/" not in caught.value.message


@pytest.mark.parametrize("close_after", [1, 3])
async def test_a_client_that_leaves_frees_the_slot(single: Completions, close_after: int) -> None:
    answer = single.stream(ask("Tell me a long story.", max_tokens=500))
    for _ in range(close_after):
        await anext(answer)
    started = time.perf_counter()
    await answer.aclose()
    await anext(single.stream(ask("Hi", max_tokens=1)))
    assert time.perf_counter() - started < 2.0  # generous: it takes about 0.1 s, a whole story takes many


async def test_leaving_in_the_middle_of_a_long_prompt_frees_the_slot(single: Completions) -> None:
    task = asyncio.create_task(single.complete(ask("red blue " * 450, max_tokens=500)))
    await asyncio.sleep(0.3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await asyncio.wait_for(single.complete(ask("Hi", max_tokens=1)), 30)


async def test_too_many_at_once(single: Completions) -> None:
    running = single.stream(ask("Tell me a long story.", max_tokens=200))
    await anext(running)
    waiting = asyncio.create_task(single.complete(ask(max_tokens=1)))
    await asyncio.sleep(0.05)
    with pytest.raises(OverloadedError):
        await single.complete(ask(max_tokens=1))
    await running.aclose()
    await waiting


async def test_health_is_the_engines_own_answer(completions: Completions) -> None:
    await completions.check()


async def test_nobody_can_reach_the_librarys_own_server(completions: Completions) -> None:
    """llama.cpp opens a listener we never use: not on TCP, and on a socket whose path is gone."""
    pid = os.getpid()
    tcp = await asyncio.to_thread(_listeners, "-ltn", pid)
    assert tcp == []
    paths = [line.split()[4] for line in await asyncio.to_thread(_listeners, "-lx", pid) if "aether-engine" in line]
    assert paths
    assert not any(Path(path).exists() or Path(path).parent.exists() for path in paths)


def _listeners(kind: str, pid: int) -> list[str]:
    output = subprocess.run(["ss", "-H", "-p", kind], capture_output=True, text=True, check=True, timeout=20).stdout
    return [line for line in output.splitlines() if f"pid={pid}," in line]


async def test_closing_with_an_answer_under_way() -> None:
    loaded = load(slots=2)
    answer = loaded.stream(ask("Tell me a long story.", max_tokens=500))
    await anext(answer)
    await asyncio.wait_for(loaded.close(), 10)
    await answer.aclose()


def test_weights_that_are_no_model(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(EngineError, match="could not be loaded"):
        LlamaCppEngine(broken, 512, 1, 1)
