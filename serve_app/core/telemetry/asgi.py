"""Pure ASGI middleware that gives every HTTP request an id, a span, a metric and a log line."""

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from opentelemetry.trace import SpanKind

from serve_app.core.telemetry.logs import get_logger
from serve_app.core.telemetry.metrics import Metrics
from serve_app.core.telemetry.traces import span

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID_KEY = "aether.request_id"
"""Where the id stands in the ASGI scope, for error bodies."""


class TelemetryMiddleware:
    """Wraps an ASGI app.

    The request's id is the one it brings in `x-request-id` (Serve gives every request one), or else a new one.
    `answers_id`: put it into the answer; Serve does that by itself.
    """

    def __init__(
        self,
        app: AsgiApp,
        component: str,
        metrics: Metrics,
        new_request_id: Callable[[], str],
        *,
        answers_id: bool = True,
    ) -> None:
        self._answers_id = answers_id
        self._app = app
        self._component = component
        self._metrics = metrics
        self._new_request_id = new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name in _READ_HEADERS
        }
        request_id = headers.pop("x-request-id", "")
        if not _SAFE_ID.fullmatch(request_id):
            request_id = self._new_request_id()
        scope[REQUEST_ID_KEY] = request_id
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._answers_id:
                    message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            span(f"{self._component} {method}", headers, SpanKind.SERVER, {"http.request.method": method}) as current,
        ):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                elapsed = time.perf_counter() - started
                current.set_attribute("http.response.status_code", status)
                self._metrics.count(
                    "aether_http_requests", component=self._component, method=method, status=str(status)
                )
                self._metrics.observe("aether_http_request_seconds", elapsed, component=self._component, method=method)
                get_logger().info(
                    "request", method=method, path=scope["path"], status=status, ms=round(elapsed * 1000, 2)
                )


_READ_HEADERS = frozenset({b"traceparent", b"tracestate", b"x-request-id"})
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
