"""`POST /v1/chat/completions`: check the request, choose who answers, relay the answer."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from configs.catalog import Catalog
from serve_app.router.policy import choose
from serve_app.router.providers.base import Provider
from serve_app.router.validation import check_capabilities, parse


@dataclass(frozen=True)
class Whole:
    """A completion in one piece."""

    body: bytes


@dataclass(frozen=True)
class Streamed:
    """A completion as server-sent events. Nothing has started yet: the first piece is asked for by iterating."""

    pieces: AsyncGenerator[bytes, None]


class ChatCompletions:
    """Needs a provider for every provider name in the catalogue."""

    def __init__(self, catalog: Catalog, providers: Mapping[str, Provider]) -> None:
        self._catalog = catalog
        self._providers = providers

    async def answer(self, body: bytes) -> Whole | Streamed:
        """Raises `AetherError` for a request that cannot be answered, with the parameter at fault in its details."""
        request, raw = parse(body)
        model = choose(self._catalog, request.model)
        check_capabilities(request, model)
        provider = self._providers[model.provider]
        relayed: dict[str, Any] = {**raw, "model": model.id}
        if request.stream:
            return Streamed(provider.stream(model.id, relayed))
        return Whole(await provider.complete(model.id, relayed))
