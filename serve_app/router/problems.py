"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`."""

from typing import Any

import orjson

from serve_app.core.errors import AetherError, InvalidRequestError, UnauthenticatedError
from serve_app.core.telemetry import get_logger

Headers = list[tuple[bytes, bytes]]

_UNEXPECTED = AetherError("The server had an error while processing your request.", code="server_error")


def known(exc: Exception) -> AetherError:
    """The error to tell. One nobody foresaw is logged here, and told without its words."""
    if isinstance(exc, AetherError):
        return exc
    get_logger().error("unexpected error", exc_info=exc)
    return _UNEXPECTED


def status_of(error: AetherError) -> int:
    """OpenAI answers 400 to every request it understands and does not like."""
    return 400 if isinstance(error, InvalidRequestError) else error.status


def body_of(error: AetherError) -> bytes:
    return orjson.dumps({"error": _describe(error)})


def event_of(error: AetherError) -> bytes:
    """For a stream that has begun: its status has been sent, so the error is its last event."""
    return b"data: " + body_of(error) + b"\n\n"


def headers_of(error: AetherError) -> Headers:
    headers: Headers = []
    if error.status == 405 and "allow" in error.details:
        headers.append((b"allow", str(error.details["allow"]).encode()))
    if error.status == 503:
        headers.append((b"retry-after", b"1"))
    if isinstance(error, UnauthenticatedError):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def _describe(error: AetherError) -> dict[str, Any]:
    code = "invalid_api_key" if isinstance(error, UnauthenticatedError) else error.details.get("code", error.code)
    is_callers_fault = status_of(error) < 500
    return {
        "message": error.message,
        "type": "invalid_request_error" if is_callers_fault else "server_error",
        "param": error.details.get("param"),
        "code": code,
    }
