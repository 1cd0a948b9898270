"""Embeddings from one loaded model: what a request may ask, who may run, and the answer in OpenAI's words."""

import asyncio
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import orjson

from configs.catalog import ModelEntry
from serve_app.core.errors import AetherError, EngineError, InvalidRequestError, UnavailableError
from serve_app.core.telemetry import Metrics, get_logger
from serve_app.inference.admission import Admission
from serve_app.inference.engines.base import Embedder

MAX_INPUTS = 2048
"""OpenAI's own limit."""
# A second of work for a small CPU: between two batches other requests get their turn and a cancelled one ends.
_BATCH_INPUTS = 8
_CHECK_TIMEOUT_S = 20.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Wanted:
    """A request this model can answer."""

    texts: Sequence[str]
    is_base64: bool = False


class Embeddings:
    """Owns the engine. Requests are bodies of `/v1/embeddings`; all that depends on the model is checked here."""

    def __init__(self, model: ModelEntry, engine: Embedder, slots: int, max_queued: int, metrics: Metrics) -> None:
        self._model = model
        self._engine = engine
        self._metrics = metrics
        self._admission = Admission(slots, 0, max_queued)
        # One thread: the engine uses every core by itself, and requests take turns batch by batch.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{model.id}")
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="engine-check")
        self._is_closed = False

    async def embed(self, request: Mapping[str, Any]) -> bytes:
        """A list of embeddings as JSON. Cancelling it stops the engine after the batch at hand.

        Raises:
            InvalidRequestError: a parameter this model cannot honour, by its name.
            ContextLengthError: an input is longer than the model reads.
            OverloadedError: too many requests wait.
            UnavailableError: the model is being stopped.
            EngineError: the engine failed.
        """
        wanted = read(request, self._model)
        async with self._turn():
            prompts = await self._work(self._engine.tokenize, wanted.texts)
            vectors: list[list[float] | str] = []
            for first in range(0, len(prompts), _BATCH_INPUTS):
                batch = prompts[first : first + _BATCH_INPUTS]
                vectors += await self._work(self._vectors, batch, wanted)
                tokens = sum(map(len, batch))
                self._metrics.count("aether_model_tokens", tokens, model=self._model.id, direction="read")
            return await self._work(self._body, vectors, sum(map(len, prompts)))

    async def check(self) -> None:
        """Raises `EngineError` when the engine's loop does not answer in time."""
        if self._is_closed:
            raise EngineError("The model engine is closed.")
        asked = asyncio.get_running_loop().run_in_executor(self._checks, self._engine.check)
        try:
            await asyncio.wait_for(asked, _CHECK_TIMEOUT_S)
        except TimeoutError as exc:
            raise EngineError("The model engine did not answer in time.") from exc

    async def close(self) -> None:
        """Let every request end at its next batch, then free the model."""
        if not self._is_closed:
            self._is_closed = True
            await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        self._thread.shutdown(wait=True)
        self._checks.shutdown(wait=True)
        self._engine.close()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        await self._admission.enter(0)
        try:
            yield
        finally:
            self._admission.leave(0)

    async def _work(self, step: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """One step in the engine's thread. A step that waits there when its request is cancelled is never done."""
        if self._is_closed:
            raise UnavailableError("The model is being stopped.")
        try:
            return await asyncio.wrap_future(self._thread.submit(step, *args, **kwargs))
        except AetherError:
            raise
        except Exception as exc:
            # The engine is foreign code; its reason is ours to log, not to tell.
            get_logger().error("engine failed", exc_info=exc)
            raise EngineError("The model engine could not answer this request.") from exc

    def _vectors(self, prompts: Sequence[list[int]], wanted: Wanted) -> Sequence[list[float] | str]:
        vectors = self._engine.embed(prompts)
        if wanted.is_base64:
            return [b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() for vector in vectors]
        return vectors

    def _body(self, vectors: Sequence[list[float] | str], tokens: int) -> bytes:
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps({"object": "list", "data": data, "model": self._model.id, "usage": usage})


def read(request: Mapping[str, Any], model: ModelEntry) -> Wanted:
    """What `request` asks of `model`.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    match request.get("encoding_format"):
        case None | "float":
            is_base64 = False
        case "base64":
            is_base64 = True
        case _:
            raise _invalid("encoding_format", "'encoding_format' must be 'float' or 'base64'.")
    dimensions = request.get("dimensions")
    if dimensions is not None and (isinstance(dimensions, bool) or dimensions != model.dimensions):
        raise _invalid("dimensions", f"The model '{model.id}' always gives {model.dimensions} dimensions.")
    return Wanted(_texts(request.get("input"), model), is_base64)


def _texts(given: Any, model: ModelEntry) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise _invalid("input", "'input' must be a string or a list of strings that is not empty.")
    if len(texts) > MAX_INPUTS:
        raise _invalid("input", f"'input' has {len(texts)} entries; at most {MAX_INPUTS} are embedded at once.")
    for index, text in enumerate(texts):
        if isinstance(text, int | list):
            raise _invalid("input", f"The model '{model.id}' takes text. Token ids would be another tokenizer's.")
        if not isinstance(text, str) or not text:
            raise _invalid("input", f"'input.{index}' must be a string that is not empty.")
    return texts


def _invalid(param: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param=param, code="invalid_value")
