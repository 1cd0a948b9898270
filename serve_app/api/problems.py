"""Errors as callers see them: `application/problem+json` (RFC 9457) with a stable code and a request id."""

from contextlib import suppress
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Receive, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from serve_app.core.errors import (
    AetherError,
    ForbiddenError,
    InvalidRequestError,
    MalformedBodyError,
    MethodNotAllowedError,
    NotFoundError,
)
from serve_app.core.telemetry import get_logger
from serve_app.core.telemetry.asgi import REQUEST_ID_KEY, Scope

_BY_STATUS: dict[int, type[AetherError]] = {
    400: MalformedBodyError,
    404: NotFoundError,
    405: MethodNotAllowedError,
    403: ForbiddenError,
}
_MAX_ERRORS = 20


def problem(error: AetherError, scope: Scope) -> Response:
    """The answer for `error`. Its message was written for callers; nothing else of it gets out."""
    body: dict[str, Any] = {
        # First: no detail takes the place of what every problem has.
        **error.details,
        "type": f"urn:aether:problem:{error.code}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": error.message,
        "request_id": scope.get(REQUEST_ID_KEY),
    }
    headers = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.retryable:
        headers["retry-after"] = "1"
    return Response(orjson.dumps(body, default=str), error.status, headers, media_type="application/problem+json")


async def refuse(error: AetherError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a WebSocket's handshake with a problem, or where the server cannot send one by closing it."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    response = problem(error, scope)
    response.headers["x-request-id"] = scope.get(REQUEST_ID_KEY, "")
    await response(scope, receive, send)


async def _tell(websocket: WebSocket, error: AetherError) -> None:
    if websocket.client_state is WebSocketState.CONNECTING:
        await refuse(error, websocket.scope, websocket.receive, websocket.send)
    elif websocket.application_state is WebSocketState.CONNECTED:
        # Of the range for private use: the status it would have had over HTTP.
        with suppress(WebSocketDisconnect, RuntimeError):
            await websocket.close(4000 + error.status, error.code)


def invalid_field(field: str, message: str) -> InvalidRequestError:
    """A field of the body that only a look at more than the body can judge, told as validation tells its own."""
    where = f"body.{field}".rstrip(".")
    return InvalidRequestError(f"{where}: {message}", errors=[{"where": where, "message": message}])


def install_problems(app: FastAPI) -> None:
    """Make every error of `app` leave it as a problem."""

    async def aether(connection: HTTPConnection, exc: Exception) -> Response | None:
        assert isinstance(exc, AetherError)  # noqa: S101 - registered for this type
        if isinstance(connection, WebSocket):
            await _tell(connection, exc)
            return None
        return problem(exc, connection.scope)

    async def invalid(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)  # noqa: S101 - registered for this type
        return problem(_from_validation(exc), request.scope)

    async def invalid_handshake(websocket: WebSocket, exc: Exception) -> None:
        assert isinstance(exc, WebSocketRequestValidationError)  # noqa: S101 - registered for this type
        await _tell(websocket, _from_validation(exc))

    async def http(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)  # noqa: S101 - registered for this type
        kind = _BY_STATUS.get(exc.status_code, InvalidRequestError if exc.status_code < 500 else AetherError)
        message = {
            404: f"There is nothing at {request.url.path}.",
            405: f"{request.url.path} does not take {request.method}.",
        }.get(exc.status_code, str(exc.detail))
        return problem(kind(message), request.scope)

    async def unknown(_request: Request, exc: Exception) -> Response:
        # Out to the edge, which has the last word; Starlette's own answer would be plain text.
        raise exc

    app.add_exception_handler(Exception, unknown)
    app.add_exception_handler(AetherError, aether)  # type: ignore[arg-type]  # one for requests and WebSockets
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(WebSocketRequestValidationError, invalid_handshake)
    app.add_exception_handler(HTTPException, http)


def unexpected(exc: Exception, scope: Scope) -> Response:
    """A fault of ours: logged whole, told as nothing but a request id."""
    get_logger().error("request failed", exc_info=exc, path=scope["path"])
    return problem(AetherError("Something went wrong on our side. Quote the request id when you report it."), scope)


def _from_validation(exc: RequestValidationError | WebSocketRequestValidationError) -> AetherError:
    errors = exc.errors()
    if any(error["type"] == "json_invalid" for error in errors):
        where = errors[0]["loc"][-1]
        return MalformedBodyError(f"The body is not valid JSON (near character {where}).")
    shown = [
        {"where": ".".join(map(str, error["loc"])), "message": error["msg"].removeprefix("Value error, ")}
        for error in errors[:_MAX_ERRORS]
    ]
    first = shown[0]
    return InvalidRequestError(f"{first['where']}: {first['message']}", errors=shown)
