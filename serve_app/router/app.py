"""The models application as plain ASGI: the hot path, with nothing between the HTTP server and the relay."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from serve_app.core.clock import Clock
from serve_app.core.errors import AetherError, MethodNotAllowedError, NotFoundError, RateLimitedError
from serve_app.core.services.callers import MODELS_TICKET, Authenticator
from serve_app.core.services.previews import is_preview_host
from serve_app.core.services.requests import ClientGoneError, bearer_token, header, read_body
from serve_app.core.telemetry.asgi import REQUEST_ID_KEY, Receive, Scope, Send
from serve_app.router.delivery import Delivery
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.endpoints import Endpoints, Handler, Request
from serve_app.router.front import while_there, whole_body
from serve_app.router.gateway import Answered
from serve_app.router.headers import Headers, rate_headers
from serve_app.router.problems import AnthropicProblems, OpenAIProblems, Problems, answer_of, known

_PREFIX = "/v1"
_JSON: Headers = [(b"content-type", b"application/json")]
_STREAM: Headers = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]

_CHAT = OpenAIProblems()
_RESPONSES = OpenAIProblems(Dialect.OPENAI_RESPONSES)
_ANTHROPIC = AnthropicProblems()


class Lifespan(Protocol):
    """Whoever owns what the application uses."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class _Route:
    methods: tuple[str, ...]
    handler: Handler
    problems: Problems = _CHAT


class RouterApp:
    """Routes, authenticates, answers. Every error leaves in the shape of the path's dialect."""

    def __init__(
        self,
        endpoints: Endpoints,
        authenticator: Authenticator,
        clock: Clock,
        max_body_bytes: int,
        preview_domain: str,
        send_stall_s: float,
        lifespan: Lifespan,
    ) -> None:
        self._lifespan = lifespan
        self._authenticator = authenticator
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._preview_domain = preview_domain
        self._send_stall_s = send_stall_s
        self._routes: Mapping[str, _Route] = {
            "/chat/completions": _Route(("POST",), endpoints.chat_completions),
            "/embeddings": _Route(("POST",), endpoints.embeddings),
            "/responses": _Route(("POST",), endpoints.responses, _RESPONSES),
            "/messages": _Route(("POST",), endpoints.messages, _ANTHROPIC),
            "/messages/count_tokens": _Route(("POST",), endpoints.count_tokens, _ANTHROPIC),
            "/route/explain": _Route(("POST",), endpoints.explain),
            "/models": _Route(("GET",), endpoints.models),
        }
        # Where a name stands in the path: before it, behind it.
        self._named: tuple[tuple[str, str, _Route], ...] = (
            ("/responses/", "/input_items", _Route(("GET",), endpoints.input_items, _RESPONSES)),
            ("/responses/", "/cancel", _Route(("POST",), endpoints.cancel, _RESPONSES)),
            ("/responses/", "", _Route(("GET", "DELETE"), endpoints.response, _RESPONSES)),
            ("/models/", "", _Route(("GET",), endpoints.model)),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"]
            await (self._lifespan.start() if kind == "lifespan.startup" else self._lifespan.close())
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        problems: Problems = _CHAT
        try:
            route, rest = self._find(scope)
            problems = _problems_for(route, scope)
            if scope["method"] not in route.methods:
                allowed = ", ".join(route.methods)
                raise MethodNotAllowedError(f"Not allowed: {scope['method']}. Use {allowed}.", allow=allowed)
            caller = await self._authenticator.authenticate(_token(scope), MODELS_TICKET)
            body = whole_body(scope, self._max_body_bytes)
            if body is None:
                body = await read_body(scope, receive, self._max_body_bytes)
            request = Request(scope, caller, body, started, rest)
            await while_there(self._work(route, request, problems, send), scope, receive)
        except ClientGoneError:
            return
        except Exception as exc:  # noqa: BLE001 - the edge: whatever it is, the caller gets an answer
            error = known(exc)
            status, told, headers = answer_of(problems, error, _request_id(scope))
            if isinstance(error, RateLimitedError):
                details = error.details
                headers += rate_headers(
                    problems.dialect, details.get("requests"), details.get("tokens"), self._clock.now()
                )
            await _send_whole(send, status, told, [*_JSON, *headers])

    async def _work(self, route: _Route, request: Request, problems: Problems, send: Send) -> None:
        answered = await route.handler(request)
        try:
            if answered.reservation is not None:
                told = answered.reservation
                answered.headers += rate_headers(problems.dialect, told.requests, told.tokens, self._clock.now())
            if answered.body is not None:
                await _send_whole(send, 200, answered.body, answered.headers)
            else:
                with Delivery(send, self._send_stall_s) as delivery:
                    await _relay(answered, problems, request.request_id, delivery)
        finally:
            answered.settle()

    def _find(self, scope: Scope) -> tuple[_Route, str]:
        path = _path(scope)
        if is_preview_host(header(scope, b"host"), self._preview_domain):
            raise NotFoundError("There is nothing here.")
        if route := self._routes.get(path):
            return route, ""
        for before, behind, route in self._named:
            name = path[len(before) : len(path) - len(behind)]
            if path.startswith(before) and path.endswith(behind) and name and ("/" not in name or not behind):
                return route, name
        raise NotFoundError(f"Unknown request URL: {scope['method']} {_PREFIX}{path}.", code="unknown_url")


def _problems_for(route: _Route, scope: Scope) -> Problems:
    """Both vendors' clients list models on the same path; one of them says who it is."""
    if route.problems is _CHAT and header(scope, b"anthropic-version"):
        return _ANTHROPIC
    return route.problems


def _token(scope: Scope) -> str:
    """Anthropic's clients send their key in a header of its own."""
    return header(scope, b"x-api-key") or bearer_token(scope)


def _request_id(scope: Scope) -> str:
    return str(scope.get(REQUEST_ID_KEY, ""))


async def _relay(answered: Answered, problems: Problems, request_id: str, send: Send) -> None:
    """The stream has begun, so whatever goes wrong now is told by its last event."""
    assert answered.pieces is not None  # noqa: S101 - an answer has one of the two
    pieces = answered.pieces
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [*answered.headers, *_STREAM]})
        try:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except ClientGoneError:
            raise
        except Exception as exc:  # noqa: BLE001 - the same
            last = _last(answered, problems, exc, request_id)
            await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await pieces.aclose()


def _last(answered: Answered, problems: Problems, exc: Exception, request_id: str) -> bytes:
    error: AetherError = known(exc)
    return answered.error_event(error) if answered.error_event else problems.event(error, request_id)


async def _send_whole(send: Send, status: int, body: bytes, headers: Headers) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _path(scope: Scope) -> str:
    """The path below `/v1`. Servers that mount the application there say so in `root_path`; some cut it off as well."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    below = path.removeprefix(root or _PREFIX) if path.startswith((root or _PREFIX) + "/") else path
    return below.rstrip("/") or "/"
