"""The port of every way to a model: a call goes out, and a reply comes back that has begun to speak."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import orjson

from configs.catalog import ModelEntry, ProviderEntry
from serve_app.core.domain.spending import Reservation, Usage
from serve_app.core.errors import AetherError, ProviderError
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.keyring import Credential
from serve_app.router.view import Candidate


@dataclass(frozen=True)
class Call:
    """What a client asks of a model: a checked body in its dialect, as it came and parsed."""

    dialect: Dialect
    body: bytes
    raw: Mapping[str, Any]
    kind: Literal["chat", "embeddings", "count_tokens"] = "chat"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """The client's own, names in lower case; each provider takes of them what its dialect knows."""

    @property
    def is_stream(self) -> bool:
        return bool(self.raw.get("stream"))


@dataclass(frozen=True)
class Target:
    """Who is to answer, with which key, and the dialect it is spoken to in."""

    candidate: Candidate
    credential: Credential
    dialect: Dialect
    place: Reservation | None = None
    """What it holds of the key's own limits."""

    @property
    def model(self) -> ModelEntry:
        return self.candidate.model

    @property
    def provider(self) -> ProviderEntry:
        return self.candidate.provider

    @property
    def is_tenants(self) -> bool:
        """The organisation brought this provider itself: its address is not to be trusted."""
        return self.candidate.is_own_provider


class Pieces(Protocol):
    """A stream for a client. Whoever holds it calls `aclose`, also when it never asked for a piece; twice is harmless.

    It ends early by raising `AetherError`; nothing has been lost of what it gave before.
    """

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


@dataclass
class Tally:
    """What is known of an answer while it is passing."""

    usage: Usage | None = None
    events: int = 0
    """Of a stream: about one token each."""
    is_whole: bool = False
    """Its last event has come."""
    has_failed: bool = False
    """That one told of a failure of the provider."""
    is_complete: bool = True
    """False when the provider says that it stopped early."""


@dataclass
class Reply:
    """An answer that has begun. Exactly one of `body` and `pieces` is set."""

    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes | None = None
    pieces: Pieces | None = None
    tally: Tally = field(default_factory=Tally)
    notes: tuple[str, ...] = ()
    """What the client said and this provider cannot be told."""
    final_object: Callable[[], Mapping[str, Any] | None] | None = None
    """What a stream amounts to, once it is whole (a response, to be stored)."""
    error_event: Callable[[AetherError], bytes] | None = None
    """How this stream says that it failed, where that depends on what it said before."""


class Provider(Protocol):
    """One way to models."""

    async def open(self, call: Call, target: Target) -> Reply:
        """Send the call and wait for the first of the answer. Cancelling it stops the provider.

        Raises:
            ProviderError: the provider failed; another may be asked.
            RateLimitedError: it asks for patience; `retry_after_s` in the details when it said.
            ProviderRefusedError: it declines this request (`ContextLengthError`, `ContentFilteredError` among these).
            MisconfiguredError: it refuses our key.
            InvalidRequestError: what the caller wants cannot be said in its dialect.
        """
        ...


def parsed(body: bytes) -> Mapping[str, Any]:
    """A provider's answer. Raises `ProviderError` when it is no JSON object."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise ProviderError("The provider's answer is not JSON.") from exc
    if not isinstance(value, dict):
        raise ProviderError("The provider's answer is not a JSON object.")
    return value
