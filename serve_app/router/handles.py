"""The way from the router to the inference deployment, through a Ray Serve handle."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from serve_app.core.errors import AetherError, EngineError, UnavailableError
from serve_app.core.telemetry import get_logger


class InferenceHandle:
    """Implements `Inference` over a handle. Only batches and whole answers cross it, never single tokens."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        # Ray types what comes back by a union it cannot decide; with stream=True it is always a generator.
        self._streaming: Any = handle.options(stream=True)

    async def stream(
        self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]:
        """See `Inference.stream`."""
        answer = self._streaming.stream.remote(model_id, dict(request), dict(trace))
        has_ended = False
        try:
            with _translate():
                async for batch in answer:
                    yield batch
                has_ended = True
        finally:
            if not has_ended:
                answer.cancel()

    async def complete(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes:
        """See `Inference.complete`."""
        answer = self._handle.complete.remote(model_id, dict(request), dict(trace))
        has_ended = False
        try:
            with _translate():
                body: bytes = await answer
                has_ended = True
                return body
        finally:
            if not has_ended:
                answer.cancel()


@contextmanager
def _translate() -> Iterator[None]:
    """Our own errors cross as themselves, wrapped; everything else means the replica is gone or sick."""
    try:
        yield
    except RayTaskError as exc:
        if isinstance(exc.cause, AetherError):
            raise _own(exc.cause) from None
        get_logger().error("inference failed", exc_info=exc)
        raise EngineError("The model engine could not answer this request.") from exc
    except (BackPressureError, RequestCancelledError, RayServeException, RayError) as exc:
        get_logger().warning("inference unreachable", reason=type(exc).__name__)
        raise UnavailableError("The model is not reachable now. Try again in a moment.") from exc


def _own(cause: AetherError) -> AetherError:
    """Without the traceback and process ids Ray adds."""
    return type(cause)(cause.message, **cause.details)
