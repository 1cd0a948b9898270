"""The way from the router to the inference deployments, through Ray Serve handles."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import orjson
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from serve_app.core.errors import AetherError, EngineError, OverloadedError, UnavailableError
from serve_app.core.telemetry import get_logger

# What begins alike is recognised within so many characters; more would only be carried and kept for nothing.
_PREFIX_CHARS = 16_000


@dataclass(frozen=True)
class ModelRoute:
    """A model with a deployment of its own."""

    handle: DeploymentHandle[Any]
    is_adapter: bool = False
    """Serve then prefers a replica that has this adapter loaded."""
    is_prefix_aware: bool = False


class InferenceHandle:
    """Implements `Inference` over handles. Only batches and whole answers cross them, never single tokens.

    `handle` leads to the deployment of every model that has no route of its own.
    """

    def __init__(self, handle: DeploymentHandle[Any], routes: Mapping[str, ModelRoute] | None = None) -> None:
        self._shared = _Way(ModelRoute(handle), None)
        self._own = {model_id: _Way(route, model_id) for model_id, route in (routes or {}).items()}

    async def stream(
        self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]:
        """See `Inference.stream`."""
        way = self._way(model_id)
        answer = way.streaming.stream.remote(*way.arguments(model_id, request, trace))
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
        way = self._way(model_id)
        return await _whole(way.whole.complete.remote(*way.arguments(model_id, request, trace)))

    async def embed(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes:
        """See `Inference.embed`."""
        return await _whole(self._way(model_id).whole.embed.remote(model_id, dict(request), dict(trace)))

    def _way(self, model_id: str) -> "_Way":
        return self._own.get(model_id, self._shared)


class _Way:
    """The handles of one route, made once: each looks after the replicas it knows."""

    def __init__(self, route: ModelRoute, model_id: str | None) -> None:
        self._is_prefix_aware = route.is_prefix_aware
        adapter = model_id if route.is_adapter and model_id else ""
        # Ray types what comes back by a union it cannot decide; stream decides it.
        self.whole: Any = route.handle.options(stream=False, multiplexed_model_id=adapter)
        self.streaming: Any = route.handle.options(stream=True, multiplexed_model_id=adapter)

    def arguments(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> tuple[Any, ...]:
        if not self._is_prefix_aware:
            return model_id, dict(request), dict(trace)
        # Ray's prefix-aware router looks among the arguments for one with an attribute of this name.
        beginning = orjson.dumps([request.get("tools"), request["messages"]]).decode()[:_PREFIX_CHARS]
        return model_id, dict(request), dict(trace), SimpleNamespace(prompt=beginning)


async def _whole(answer: Any) -> bytes:
    """Without stream=True a call is answered by one response."""
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
    except BackPressureError as exc:
        raise OverloadedError("Too many requests wait for this model. Try again in a moment.") from exc
    except (RequestCancelledError, RayServeException, RayError) as exc:
        get_logger().warning("inference unreachable", reason=type(exc).__name__)
        raise UnavailableError("The model is not reachable now. Try again in a moment.") from exc


def _own(cause: AetherError) -> AetherError:
    """Without the traceback and process ids Ray adds."""
    return type(cause)(cause.message, **cause.details)
