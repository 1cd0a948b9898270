"""Pure ASGI middleware that gives every HTTP request an id, a span, a metric and a log line."""

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry.trace import SpanKind

from serve_app.core.telemetry.logs import request_id, request_line
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
        self._line = request_line(component)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        told_id = ""
        parent: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                told_id = value.decode("latin-1")
            elif name in _TRACE_HEADERS:
                parent[name.decode()] = value.decode("latin-1")
        own_id = told_id if _SAFE_ID.fullmatch(told_id) else self._new_request_id()
        scope[REQUEST_ID_KEY] = own_id
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._answers_id:
                    message["headers"] = [*message.get("headers", []), (b"x-request-id", own_id.encode())]
            await send(message)

        bound = request_id.set(own_id)
        attributes = {"http.request.method": method}
        with span(f"{self._component} {method}", parent, SpanKind.SERVER, attributes) as current:
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                elapsed = time.perf_counter() - started
                current.set_attribute("http.response.status_code", status)
                metrics, component = self._metrics, self._component
                metrics.count("aether_http_requests", component=component, method=method, status=str(status))
                metrics.observe("aether_http_request_seconds", elapsed, component=component, method=method)
                self._line(method, scope["path"], status, round(elapsed * 1000, 2))
                request_id.reset(bound)


_TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
