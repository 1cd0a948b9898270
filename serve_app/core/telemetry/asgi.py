"""Pure ASGI middleware that gives every HTTP request an id, a span, a metric and a log line."""

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
    """Wraps an ASGI app. `new_request_id` makes the id answered in `x-request-id`."""

    def __init__(self, app: AsgiApp, component: str, metrics: Metrics, new_request_id: Callable[[], str]) -> None:
        self._app = app
        self._component = component
        self._metrics = metrics
        self._new_request_id = new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = self._new_request_id()
        scope[REQUEST_ID_KEY] = request_id
        headers = {name: value for name, value in scope["headers"] if name in {b"traceparent", b"tracestate"}}
        parent = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            span(f"{self._component} {method}", parent, SpanKind.SERVER, {"http.request.method": method}) as current,
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


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
