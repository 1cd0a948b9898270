"""The port below the dialects: carries one request to a provider and brings back the bytes it answers with."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.router.providers.base import Target
from serve_app.router.upstream import Upstream
from serve_app.router.wire import Headers


@dataclass(frozen=True)
class Outgoing:
    """`path` is below the provider's base address."""

    path: str
    body: bytes
    headers: Headers
    is_stream: bool
    kind: Literal["chat", "embeddings", "count_tokens"] = "chat"


class Incoming(Protocol):
    """An answer whose head has come."""

    status: int

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def whole(self) -> bytes: ...

    def chunks(self) -> AsyncGenerator[bytes, None]: ...

    def close(self) -> None: ...


class Transport(Protocol):
    async def send(self, target: Target, request: Outgoing) -> Incoming:
        """Raises `AetherError`; whoever gets an answer closes it."""
        ...


class HttpTransport(Transport):
    """To providers with an address."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def send(self, target: Target, request: Outgoing) -> Incoming:
        """See `Transport.send`."""
        return await self._upstream.open(
            f"{target.provider.base_url}{request.path}",
            request.body,
            request.headers,
            target.provider.timeouts,
            is_tenants=target.is_tenants,
        )
