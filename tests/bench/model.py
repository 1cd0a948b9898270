"""The local model: the engine alone in this process, and through HTTP, router and Ray, turn about in one run."""

import asyncio
import statistics
import time
from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from configs.catalog import load_catalog
from serve_app.inference.engines.llamacpp import LlamaCppEngine
from serve_app.inference.weights import locate
from tests.bench.report import Row, median_and_spread
from tests.e2e.conftest import Platform

ROUNDS = 12
TOKENS = 192
SUBJECTS = (
    "rivers",
    "bridges",
    "clocks",
    "bread",
    "forests",
    "maps",
    "rain",
    "music",
    "ships",
    "gardens",
    "stars",
    "wool",
)


class TimingSink:
    """Notes when the engine says something."""

    is_cancelled = False

    def __init__(self) -> None:
        self.times: list[float] = []

    def prompt(self, tokens: int) -> None:
        """Not needed here."""

    def chunk(self, chunk: Mapping[str, Any]) -> None:
        if any(choice["delta"].get("content") for choice in chunk.get("choices", ())):
            self.times.append(time.perf_counter())


def request(subject: str, number: int) -> dict[str, Any]:
    return {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": f"Write a long essay on the history of {subject}, part {number}."}],
        "max_tokens": TOKENS,
        "temperature": 0.7,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def measure_model(platform: Platform) -> list[Row]:
    threads = int(platform.environ.get("AETHER_INFERENCE_THREADS", "0")) or _threads()
    model = load_catalog().models[0]
    engine = await asyncio.to_thread(LlamaCppEngine, locate(model.source), model.context_tokens, 4, threads)
    alone: list[tuple[float, float]] = []
    through: list[tuple[float, float]] = []
    async with httpx.AsyncClient(
        base_url=platform.url, headers={"authorization": f"Bearer {platform.owner_key}"}, trust_env=False, timeout=120
    ) as client:
        await _through(client, request("warm-up", 0))
        await _alone(engine, request("warm-up", 0))
        for number in range(ROUNDS):
            # Different prompts, the same for both, so that no prompt cache makes one of them look better.
            body = request(SUBJECTS[number % len(SUBJECTS)], number)
            pair = [lambda body=body: _alone(engine, body), lambda body=body: _through(client, body)]
            for measure in pair if number % 2 else reversed(pair):
                (alone if measure is pair[0] else through).append(await measure())
    await asyncio.to_thread(engine.close)
    ratio = statistics.median(t[0] for t in through) / statistics.median(a[0] for a in alone)
    added = [(t[1] - a[1]) * 1000 for t, a in zip(through, alone, strict=True)]
    return [
        Row("Engine alone, tokens/s", median_and_spread([a[0] for a in alone], "tokens/s")),
        Row("Through the platform, tokens/s", median_and_spread([t[0] for t in through], "tokens/s")),
        Row("– as a share of the engine alone", f"{ratio:.1%}", "≥ 90 %"),
        Row("First token, engine alone", median_and_spread([a[1] * 1000 for a in alone], "ms")),
        Row("First token, added by the platform", median_and_spread(added, "ms"), "≤ 20 ms"),
    ]


def _threads() -> int:
    from serve_app.inference.deployment import usable_cores  # loads Ray: only this process's bench needs it

    return usable_cores()


async def _alone(engine: LlamaCppEngine, body: dict[str, Any]) -> tuple[float, float]:
    """(tokens/s after the first, seconds to the first)."""
    sink = TimingSink()
    began = time.perf_counter()
    await asyncio.to_thread(engine.generate, body, sink)
    return _rate(sink.times, began)


async def _through(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[float, float]:
    times: list[float] = []
    tokens = 0
    began = time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for piece in response.aiter_raw():
            now = time.perf_counter()
            for line in piece.splitlines():
                if line.startswith(b"data: {"):
                    chunk = orjson.loads(line[6:])
                    if chunk.get("usage"):
                        tokens = chunk["usage"]["completion_tokens"]
                    if any(choice["delta"].get("content") for choice in chunk["choices"]):
                        times.append(now)
    if len(times) < 0.9 * tokens:
        raise AssertionError("tokens were lost on the way")
    return _rate(times, began)


def _rate(times: list[float], began: float) -> tuple[float, float]:
    return (len(times) - 1) / (times[-1] - times[0]), times[0] - began
