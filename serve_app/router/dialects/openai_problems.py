"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`.

https://platform.openai.com/docs/guides/error-codes/api-errors
"""

from typing import Any

import orjson

from serve_app.core.errors import (
    AetherError,
    BudgetExceededError,
    InvalidRequestError,
    RateLimitedError,
    UnauthenticatedError,
)

_TYPES: dict[type[AetherError], str] = {
    BudgetExceededError: "insufficient_quota",
    RateLimitedError: "rate_limit_error",
}


def status_of(error: AetherError) -> int:
    """OpenAI answers 400 to every request it understands and does not like."""
    return 400 if isinstance(error, InvalidRequestError) else error.status


def body_of(error: AetherError) -> bytes:
    return orjson.dumps({"error": described(error)})


def event_of(error: AetherError) -> bytes:
    """For a stream that has begun: its status has been sent, so the error is its last event."""
    return b"data: " + body_of(error) + b"\n\n"


def response_event_of(error: AetherError) -> bytes:
    """The same for a stream of Responses events."""
    told = described(error)
    event = {**told, "type": "error", "sequence_number": 0, "error": told}
    return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"


def described(error: AetherError) -> dict[str, Any]:
    code = "invalid_api_key" if isinstance(error, UnauthenticatedError) else error.details.get("code", error.code)
    fault = "invalid_request_error" if status_of(error) < 500 else "server_error"
    kind = next((kind for known, kind in _TYPES.items() if isinstance(error, known)), fault)
    return {"message": error.message, "type": kind, "param": error.details.get("param"), "code": code}
