"""Models this platform runs itself, reached through whatever carries a call to them."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from serve_app.core.telemetry import carrier


class Inference(Protocol):
    """The way to the engines. `trace` continues the caller's trace on the far side."""

    def stream(
        self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]
    ) -> AsyncGenerator[bytes, None]: ...

    async def complete(self, model_id: str, request: Mapping[str, Any], trace: Mapping[str, str]) -> bytes: ...


class LocalProvider:
    """Engines already write the dialect we answer in, so nothing is translated."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def stream(self, model: str, request: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """See `Provider.stream`."""
        async with aclosing(self._inference.stream(model, request, carrier())) as batches:
            async for batch in batches:
                yield batch

    async def complete(self, model: str, request: Mapping[str, Any]) -> bytes:
        """See `Provider.complete`."""
        return await self._inference.complete(model, request, carrier())
