"""The Ray Serve shell around the models this platform runs itself."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import psutil
from ray import serve
from ray.serve.schema import LoggingConfig

from configs.catalog import ModelEntry
from configs.settings import InferenceSettings, TelemetrySettings
from serve_app.core.errors import EngineError, UnknownModelError
from serve_app.core.telemetry import Metrics, configure_logs, configure_traces, span
from serve_app.core.telemetry.ray_metrics import RayMetrics
from serve_app.inference.completions import Completions
from serve_app.inference.embeddings import Embeddings
from serve_app.inference.engines.llamacpp import LlamaCppEngine
from serve_app.inference.engines.sentence import SentenceEngine
from serve_app.inference.weights import locate

COMPONENT = "inference"
T = TypeVar("T")


@serve.deployment(
    # Its own admission decides who runs, who waits and who is refused; Serve must not queue before it.
    max_ongoing_requests=1000,
    # The engine takes the CPU it finds; a reservation would not fit beside the other applications on two cores.
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=10,
    health_check_period_s=5,
    health_check_timeout_s=30,
    logging_config=LoggingConfig(enable_access_log=False),
)
class InferenceDeployment:
    """One replica holds every model in `models`. `on_start` runs first, in the replica's process."""

    async def __init__(
        self,
        settings: InferenceSettings,
        models: Sequence[ModelEntry],
        telemetry: TelemetrySettings,
        on_start: tuple[Callable[[], None], ...] = (),
    ) -> None:
        for prepare in on_start:
            prepare()
        configure_logs(telemetry.log_level, COMPONENT)
        configure_traces(COMPONENT, telemetry.otlp_endpoint)
        metrics = RayMetrics()
        self._completions: dict[str, Completions] = {}
        self._embeddings: dict[str, Embeddings] = {}
        for model in models:
            match model.engine:
                case "llamacpp":
                    self._completions[model.id] = await asyncio.to_thread(load_completions, model, settings, metrics)
                case "sentence":
                    self._embeddings[model.id] = await asyncio.to_thread(load_embeddings, model, settings, metrics)
                case other:
                    raise EngineError(f"The model '{model.id}' does not run here: its engine is {other}.")

    async def stream(
        self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]:
        """Batches of server-sent events; see `Completions.stream`."""
        completions = _find(self._completions, model_id)
        with span("inference stream", trace, attributes={"model": model_id}):
            answer = completions.stream(request)
            try:
                async for batch in answer:
                    yield batch
            finally:
                await answer.aclose()

    async def complete(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes:
        """One completion as JSON; see `Completions.complete`."""
        with span("inference complete", trace, attributes={"model": model_id}):
            return await _find(self._completions, model_id).complete(request)

    async def embed(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes:
        """One list of embeddings as JSON; see `Embeddings.embed`."""
        with span("inference embed", trace, attributes={"model": model_id}):
            return await _find(self._embeddings, model_id).embed(request)

    async def check_health(self) -> None:
        """Serve replaces the replica when an engine's loop no longer answers."""
        for loaded in (*self._completions.values(), *self._embeddings.values()):
            await loaded.check()

    async def __del__(self) -> None:
        for loaded in (*self._completions.values(), *self._embeddings.values()):
            await loaded.close()


def load_completions(model: ModelEntry, settings: InferenceSettings, metrics: Metrics) -> Completions:
    slots = settings.parallel_slots
    threads = settings.threads or usable_cores()
    engine = LlamaCppEngine(locate(model.source), model.context_tokens, slots, threads)
    return Completions(model, engine, slots, settings.max_queued, metrics)


def load_embeddings(model: ModelEntry, settings: InferenceSettings, metrics: Metrics) -> Embeddings:
    engine = SentenceEngine(locate(model.source), model.context_tokens, settings.threads or usable_cores())
    return Embeddings(model, engine, settings.parallel_slots, settings.max_queued, metrics)


def _find(loaded: Mapping[str, T], model_id: str) -> T:
    try:
        return loaded[model_id]
    except KeyError:
        raise UnknownModelError(f"The model '{model_id}' is not loaded here.") from None


def usable_cores() -> int:
    """Physical cores, or fewer when this process may not use all. A second thread a core slows llama.cpp down."""
    physical = psutil.cpu_count(logical=False) or 1
    return max(1, min(physical, len(os.sched_getaffinity(0))))
