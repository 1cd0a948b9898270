"""The Ray Serve shell around vLLM: Ray's own LLM server, which also answers as every engine here does.

Importing it needs the extra `vllm`, in the process that deploys as much as in the replicas.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest
from ray.serve.schema import LoggingConfig

from configs.catalog import ModelEntry
from configs.local_models import VllmOptions
from configs.settings import TelemetrySettings
from serve_app.core.errors import AetherError, EngineError, InvalidRequestError
from serve_app.core.telemetry import configure_logs, configure_traces, get_logger, span
from serve_app.inference.vllm import answers
from serve_app.inference.vllm.config import llm_config

COMPONENT = "inference"
DEPLOYMENT = "vllm"
"""The deployment's name in each application; there is one application per model."""


class VllmDeployment(LLMServer):
    """One replica serves one model and its adapters. `on_start` runs first, in the replica's process."""

    async def __init__(
        self,
        llm_config: LLMConfig,
        model: ModelEntry,
        telemetry: TelemetrySettings,
        on_start: tuple[Callable[[], None], ...] = (),
    ) -> None:
        for prepare in on_start:
            prepare()
        configure_logs(telemetry.log_level, COMPONENT)
        configure_traces(COMPONENT, telemetry.otlp_endpoint)
        self._model = model
        await super().__init__(llm_config)

    async def stream(
        self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str], _prefix: object = None
    ) -> AsyncGenerator[bytes, None]:
        """Batches of server-sent events, `[DONE]` included. Closing it stops vLLM's work for it.

        `_prefix` has been read on the way: it chose this replica.
        """
        model = self._named(model_id)
        with span("inference stream", trace, attributes={"model": model_id}), _translate():
            answer = await self.chat(ChatCompletionRequest(**answers.payload(model, request, stream=True)))
            try:
                async for batch in answer:
                    frames, failure = answers.join(batch if isinstance(batch, list) else [batch], model)
                    if frames:
                        yield frames
                    if failure:
                        raise failure
            finally:
                await answer.aclose()

    async def complete(
        self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str], _prefix: object = None
    ) -> bytes:
        """One `chat.completion` object as JSON. Cancelling it stops vLLM's work for it."""
        model = self._named(model_id)
        with span("inference complete", trace, attributes={"model": model_id}), _translate():
            # Ray types it by a union; without stream it is one response or one error.
            answer: Any = await self.chat(ChatCompletionRequest(**answers.payload(model, request, stream=False)))
            try:
                async for whole in answer:
                    if hasattr(whole, "error"):
                        raise answers.error(whole.model_dump(), model)
                    body: bytes = whole.model_dump_json().encode()
                    return body
            finally:
                await answer.aclose()
            raise EngineError("The model engine gave no answer.")

    def _named(self, model_id: str) -> ModelEntry:
        """The model under the name it was asked for: an adapter answers under its own."""
        return self._model if model_id == self._model.id else self._model.model_copy(update={"id": model_id})


def build(
    model: ModelEntry,
    options: VllmOptions,
    telemetry: TelemetrySettings,
    on_start: tuple[Callable[[], None], ...] = (),
) -> Application:
    """The application that serves one model. Raises `EngineError` when Ray or vLLM does not take its configuration."""
    try:
        config = LLMConfig(**llm_config(model, options))
        return build_llm_deployment(
            config,
            name_prefix="",
            deployment_cls=VllmDeployment,
            bind_kwargs={"model": model, "telemetry": telemetry, "on_start": on_start},
            override_serve_options={"name": DEPLOYMENT, "logging_config": LoggingConfig(enable_access_log=False)},
        )
    except (ValueError, TypeError) as exc:
        raise EngineError(f"The model '{model.id}' cannot be served as the catalogue says: {exc}") from exc


@contextmanager
def _translate() -> Iterator[None]:
    """Our own errors pass; pydantic's mean that vLLM does not know such a request; the rest is vLLM's."""
    try:
        yield
    except AetherError:
        raise
    except ValidationError as exc:
        places = [error["loc"] for error in exc.errors(include_url=False, include_input=False, include_context=False)]
        get_logger().warning("engine refused", places=places[:3])
        raise InvalidRequestError("The model engine does not understand this request.") from exc
    except Exception as exc:
        get_logger().error("engine failed", exc_info=exc)
        raise EngineError("The model engine could not answer this request.") from exc
