"""The models application as plain ASGI: the hot path, with nothing between the HTTP server and the relay."""

from contextlib import aclosing

from serve_app.core.errors import MethodNotAllowedError, NotFoundError
from serve_app.core.services.callers import MODELS_TICKET, Authenticator
from serve_app.core.services.presence import while_present
from serve_app.core.services.requests import ClientGoneError, bearer_token, header, read_body
from serve_app.core.telemetry.asgi import Receive, Scope, Send
from serve_app.router.chat import ChatCompletions, Streamed
from serve_app.router.models import ModelList
from serve_app.router.problems import Headers, body_of, event_of, headers_of, known, status_of

_PREFIX = "/v1"
_JSON: Headers = [(b"content-type", b"application/json")]
_SSE: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class RouterApp:
    """Routes, authenticates, answers. Every error leaves in OpenAI's shape."""

    def __init__(
        self,
        chat: ChatCompletions,
        models: ModelList,
        authenticator: Authenticator,
        max_body_bytes: int,
        preview_domain: str,
    ) -> None:
        self._chat = chat
        self._models = models
        self._authenticator = authenticator
        self._max_body_bytes = max_body_bytes
        self._preview_domain = preview_domain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._route(scope, receive, send)
        except ClientGoneError:
            return
        except Exception as exc:  # noqa: BLE001 - the edge: whatever it is, the caller gets an answer
            error = known(exc)
            await _send_whole(send, status_of(error), body_of(error), [*_JSON, *headers_of(error)])

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _path(scope)
        if self._is_preview(scope):
            raise NotFoundError("There is nothing here.")
        if path == "/chat/completions":
            _expect(scope, "POST")
            await self._authenticate(scope)
            body = await read_body(scope, receive, self._max_body_bytes)
            await while_present(self._complete(body, send), receive)
        elif path == "/models":
            _expect(scope, "GET")
            await self._authenticate(scope)
            await _send_whole(send, 200, self._models.all(), _JSON)
        elif path.startswith("/models/"):
            _expect(scope, "GET")
            await self._authenticate(scope)
            await _send_whole(send, 200, self._models.one(path.removeprefix("/models/")), _JSON)
        else:
            raise NotFoundError(f"Unknown request URL: {scope['method']} {_PREFIX}{path}.", code="unknown_url")

    async def _authenticate(self, scope: Scope) -> None:
        await self._authenticator.authenticate(bearer_token(scope), MODELS_TICKET)

    async def _complete(self, body: bytes, send: Send) -> None:
        answer = await self._chat.answer(body)
        if isinstance(answer, Streamed):
            await _relay(answer, send)
        else:
            await _send_whole(send, 200, answer.body, _JSON)

    def _is_preview(self, scope: Scope) -> bool:
        """Untrusted creations have host names of their own, and no way from there into the application."""
        host = (header(scope, b"host") or "").partition(":")[0].lower()
        return host.startswith("cre-") and host.endswith("." + self._preview_domain)


async def _relay(answer: Streamed, send: Send) -> None:
    """The status waits for the first piece, so that an error before it is a proper one."""
    async with aclosing(answer.pieces) as pieces:
        first = await anext(pieces)
        await send({"type": "http.response.start", "status": 200, "headers": list(_SSE)})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        try:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception as exc:  # noqa: BLE001 - the stream has begun: its last event tells
            await send({"type": "http.response.body", "body": event_of(known(exc)), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_whole(send: Send, status: int, body: bytes, headers: Headers) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _live(receive: Receive, send: Send) -> None:
    """Nothing to start or stop: the shell owns what this app was given."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _path(scope: Scope) -> str:
    """The path below `/v1`. Servers that mount the application there say so in `root_path`; some cut it off as well."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    below = path.removeprefix(root or _PREFIX) if path.startswith((root or _PREFIX) + "/") else path
    return below.rstrip("/") or "/"


def _expect(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise MethodNotAllowedError(f"Not allowed: {scope['method']}. Use {method}.", allow=method)
