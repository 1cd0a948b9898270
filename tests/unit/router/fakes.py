"""A provider that says what a test tells it to, a key that is known, and a bare ASGI client."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from configs.catalog import load_catalog
from serve_app.core.clock import SystemClock
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import KeyId, new_org_id, new_request_id, new_user_id
from serve_app.core.domain.keys import NewKey, StoredKey
from serve_app.core.services.callers import Authenticator, TicketSigner, make_key
from serve_app.core.telemetry import NullMetrics
from serve_app.core.telemetry.asgi import AsgiApp, TelemetryMiddleware
from serve_app.router.app import RouterApp
from serve_app.router.chat import ChatCompletions
from serve_app.router.models import ModelList
from serve_app.router.providers.base import Provider

CALLER = Caller(org_id=new_org_id(), user_id=new_user_id(), role="member")
TICKETS = TicketSigner(b"s" * 32, SystemClock())


@dataclass
class KnownKeys:
    """One good key."""

    key: NewKey = field(default_factory=make_key)

    async def find_key(self, prefix: str) -> StoredKey | None:
        if prefix != self.key.prefix:
            return None
        return StoredKey(KeyId("key_1"), CALLER, self.key.secret_digest, None)


class SaidProvider:
    """Streams `pieces`, then fails with `error` when there is one. `hang` makes it wait after the last piece."""

    def __init__(
        self, pieces: list[bytes] | None = None, error: Exception | None = None, *, hang: bool = False
    ) -> None:
        self.pieces = pieces or []
        self.error = error
        self.hang = hang
        self.requests: list[Mapping[str, Any]] = []
        self.is_stopped = asyncio.Event()

    async def stream(self, model: str, request: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        self.requests.append(request)
        try:
            for piece in self.pieces:
                yield piece
            if self.hang:
                await asyncio.sleep(3600)
            if self.error:
                raise self.error
        finally:
            self.is_stopped.set()

    async def complete(self, model: str, request: Mapping[str, Any]) -> bytes:
        return b"".join([piece async for piece in self.stream(model, request)])


def router(provider: Provider, keys: KnownKeys, max_body_bytes: int = 100_000) -> AsgiApp:
    catalog = load_catalog()
    app = RouterApp(
        ChatCompletions(catalog, {"local": provider}),
        ModelList(catalog),
        Authenticator(keys, TICKETS, SystemClock()),
        max_body_bytes,
        "localhost",
    )
    return TelemetryMiddleware(app, "models", NullMetrics(), new_request_id)


@dataclass
class Answer:
    """What an application sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        return orjson.loads(self.body)["error"]


class Client:
    """Calls an ASGI application without a server. `gone` is the client's leaving."""

    def __init__(self, app: AsgiApp, token: str | None) -> None:
        self._app = app
        self._token = token
        self.gone = asyncio.Event()
        self.sent: list[Any] = []

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        root_path: str = "",
    ) -> Answer:
        named = {"host": "localhost:8000", **(headers or {})}
        if self._token is not None:
            named.setdefault("authorization", f"Bearer {self._token}")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "root_path": root_path,
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self._app(scope, receive, send)
        start = next((message for message in self.sent if message["type"] == "http.response.start"), None)
        if start is None:
            return Answer(0, {}, b"")
        answer_headers = {name.decode(): value.decode() for name, value in start["headers"]}
        content = b"".join(message.get("body", b"") for message in self.sent[1:])
        return Answer(start["status"], answer_headers, content)

    async def post(self, **body: Any) -> Answer:
        return await self.call("POST", "/v1/chat/completions", orjson.dumps(body))
