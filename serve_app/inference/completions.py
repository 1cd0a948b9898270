"""Chat completions from one loaded model: who may run, how answers travel, what is measured."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from configs.catalog import ModelEntry
from serve_app.core.errors import AetherError, EngineError, UnavailableError
from serve_app.core.telemetry import Metrics, get_logger
from serve_app.inference.admission import Admission
from serve_app.inference.answers import FramedAnswer, WholeAnswer
from serve_app.inference.engines.base import Chunk, Engine
from serve_app.inference.generation import Generation
from serve_app.inference.relay import Relay

# A batch of a long prompt may keep the engine's loop busy for a second or two on a small machine.
_CHECK_TIMEOUT_S = 20.0
# What a chat template may add: the system prompt a model brings when the request has none, and its markers.
_TEMPLATE_TOKENS = 64


@dataclass
class Job:
    """One request on its way: where its chunks go, and the generation that writes them, once there is one."""

    payload: dict[str, Any]
    add: Callable[[Chunk], None]
    end: Callable[[], None]
    relay: Relay
    generation: Generation | None = None


class Completions:
    """Owns the engine. Requests are bodies of `/v1/chat/completions` that the router has validated."""

    def __init__(self, model: ModelEntry, engine: Engine, slots: int, max_queued: int, metrics: Metrics) -> None:
        self._model = model
        self._engine = engine
        self._metrics = metrics
        self._admission = Admission(slots, model.context_tokens, max_queued)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix=f"engine-{model.id}")
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="engine-check")
        self._running: set[Generation] = set()
        self._is_closed = False

    @property
    def running(self) -> int:
        """How many answers hold a slot now."""
        return len(self._running)

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """Server-sent events as they go to the client, `[DONE]` included, in batches. Closing it stops the engine.

        Raises:
            AetherError: what `Engine.generate` raises, and `OverloadedError`; before the first batch or after it.
        """
        relay = Relay(asyncio.get_running_loop())
        include_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        framed = FramedAnswer(self._model.id, relay.put, include_usage=include_usage)
        async with self._writing(request, framed.add, framed.end, relay):
            async for batch in relay.batches():
                yield batch

    async def complete(self, request: Mapping[str, Any]) -> bytes:
        """One `chat.completion` object as JSON. Cancelling it stops the engine. Raises as `stream` does."""
        relay = Relay(asyncio.get_running_loop())
        whole = WholeAnswer(self._model.id)
        async with self._writing(request, whole.add, lambda: relay.put(whole.body()), relay):
            return b"".join([part async for part in relay.batches()])

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
        """Stop every answer, then free the model."""
        if self._is_closed:
            return
        self._is_closed = True
        for generation in self._running:
            generation.cancel()
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        self._threads.shutdown(wait=True)
        self._checks.shutdown(wait=True)
        self._engine.close()

    @asynccontextmanager
    async def _writing(
        self, request: Mapping[str, Any], add: Callable[[Chunk], None], end: Callable[[], None], relay: Relay
    ) -> AsyncIterator[None]:
        """While the block runs, the answer is written into `relay`; leaving it early stops the engine."""
        job = Job(self._complete_payload(request), add, end, relay)
        task = asyncio.create_task(self._drive(job))
        try:
            yield
        finally:
            # Waiting, it leaves the queue; running, its thread stops at the next token and gives its place back.
            if job.generation:
                job.generation.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _drive(self, job: Job) -> None:
        """Wait for a place and let the engine write. Every failure reaches the reader through the relay."""
        # English takes about four bytes a token. The engine tells the true number before it reads the prompt.
        tokens = len(orjson.dumps([job.payload["messages"], job.payload.get("tools")])) // 3 + _TEMPLATE_TOKENS
        try:
            while tokens:
                held = self._admission.fitting(tokens + job.payload["max_tokens"])
                await self._admission.enter(held)
                generation = await self._run(job, held)
                # Evicted: the guess was too low and others hold the rest. It queues again with the true number.
                tokens = generation.prompt_tokens if generation.is_evicted else 0
        except AetherError as exc:
            job.relay.end(exc)

    async def _run(self, job: Job, held: int) -> Generation:
        """Write in a thread. Whatever happens, the place in `held` is given back once, when the thread is done."""
        loop = asyncio.get_running_loop()

        def settle(prompt_tokens: int) -> None:
            nonlocal held
            needed = self._admission.fitting(prompt_tokens + job.payload["max_tokens"])
            if generation not in self._running:
                return
            if self._admission.resize(held, needed):
                held = needed
            else:
                generation.evict()

        def release(_: asyncio.Future[None]) -> None:
            self._running.discard(generation)
            self._admission.leave(held)
            if not generation.is_evicted:
                self._measure(generation)

        generation = job.generation = Generation(
            job.add, lambda prompt_tokens: loop.call_soon_threadsafe(settle, prompt_tokens)
        )
        if self._is_closed:
            self._admission.leave(held)
            raise UnavailableError("The model is being stopped.")
        self._running.add(generation)
        work = loop.run_in_executor(self._threads, self._write, job, generation)
        work.add_done_callback(release)
        await asyncio.shield(work)
        return generation

    def _write(self, job: Job, generation: Generation) -> None:
        """Runs in a thread of its own slot."""
        try:
            self._engine.generate(job.payload, generation)
            if generation.is_evicted:
                return
            if generation.is_cancelled:
                raise UnavailableError("The answer was stopped.")
            job.end()
        except AetherError as exc:
            job.relay.end(exc)
        except Exception as exc:  # noqa: BLE001 - the engine is foreign code; its reason is ours to log, not to tell
            get_logger().error("engine failed", exc_info=exc)
            job.relay.end(EngineError("The model engine could not answer this request."))
        else:
            job.relay.end(None)

    def _complete_payload(self, request: Mapping[str, Any]) -> dict[str, Any]:
        wanted = request.get("max_completion_tokens") or request.get("max_tokens")
        defaults = self._model.sampling.model_dump(exclude_none=True)
        given = {name: value for name, value in request.items() if value is not None}
        return {**defaults, **given, "max_tokens": wanted or self._model.max_output_tokens}

    def _measure(self, generation: Generation) -> None:
        model = self._model.id
        self._metrics.count("aether_model_tokens", generation.prompt_tokens, model=model, direction="read")
        self._metrics.count("aether_model_tokens", generation.written_tokens, model=model, direction="written")
        if generation.first_token_s is not None:
            self._metrics.observe("aether_model_first_token_seconds", generation.first_token_s, model=model)
