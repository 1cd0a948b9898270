"""Models this platform runs itself, reached through whatever carries a call to them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import orjson

from configs.catalog import ModelEntry, Timeouts
from serve_app.core.errors import TimedOutError
from serve_app.core.telemetry import carrier
from serve_app.router.providers.base import Target
from serve_app.router.providers.transport import Incoming, Outgoing, Transport

_T = TypeVar("_T")


class Inference(Protocol):
    """The way to the engines. `trace` continues the caller's trace on the far side."""

    def stream(
        self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]: ...

    async def complete(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes: ...

    async def embed(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes: ...


class LocalTransport(Transport):
    """Engines speak Chat Completions, so to the rest of the router they are a provider like any other.

    `check` refuses what a model of ours cannot do: engines take what they know and would drop the rest in silence.
    """

    def __init__(self, inference: Inference, check: Callable[[Mapping[str, Any], ModelEntry], None]) -> None:
        self._inference = inference
        self._check = check

    async def send(self, target: Target, request: Outgoing) -> Incoming:
        """See `Transport.send`."""
        model = target.model
        raw = {**orjson.loads(request.body), "model": model.id}
        timeouts = target.provider.timeouts
        if request.kind == "embeddings":
            return _Whole(await _within(timeouts.total, self._inference.embed(model.id, raw, carrier())))
        self._check(raw, model)
        if request.is_stream:
            return _Streamed(self._inference.stream(model.id, raw, carrier()), timeouts)
        return _Whole(await _within(timeouts.total, self._inference.complete(model.id, raw, carrier())))


class _Whole:
    status = 200
    headers: Mapping[str, str] = {"content-type": "application/json"}

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def whole(self) -> bytes:
        return self._body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self._body

    def close(self) -> None:
        """Nothing is held."""


class _Streamed:
    status = 200
    headers: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8"}

    def __init__(self, batches: AsyncGenerator[bytes, None], timeouts: Timeouts) -> None:
        self._batches = batches
        self._timeouts = timeouts

    async def whole(self) -> bytes:
        return b"".join([batch async for batch in self.chunks()])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        # Closing this closes the engine's side as well.
        patience_s = self._timeouts.first_token
        async with aclosing(self._batches) as batches:
            while (batch := await _within(patience_s, anext(batches, None))) is not None:
                patience_s = self._timeouts.between_tokens
                yield batch

    def close(self) -> None:
        """Whoever took `chunks` closes that."""


async def _within(seconds: float, answer: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as exc:
        raise TimedOutError("The model did not answer in time.") from exc
