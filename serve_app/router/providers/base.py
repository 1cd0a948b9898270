"""The port every model provider implements."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol


class Provider(Protocol):
    """Answers chat completions in OpenAI's dialect. `request` is a validated body; `model` is the provider's name."""

    def stream(self, model: str, request: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """Server-sent events to relay byte for byte, `[DONE]` included. Closing it stops the provider.

        Raises:
            AetherError: before the first piece or between two.
        """
        ...

    async def complete(self, model: str, request: Mapping[str, Any]) -> bytes:
        """One `chat.completion` object as JSON. Cancelling it stops the provider. Raises `AetherError`."""
        ...
