"""Errors as Anthropic's clients expect them: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

https://platform.claude.com/docs/en/api/errors
"""

import orjson

from serve_app.core.errors import (
    AetherError,
    BodyTooLargeError,
    BudgetExceededError,
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ProviderError,
    ProviderRefusedError,
    RateLimitedError,
    TimedOutError,
    TooManyMessagesError,
    UnauthenticatedError,
    UnavailableError,
)

# By the nearest ancestor. A budget is somebody's money, so its end is told as Anthropic tells of money, and with a
# status its clients do not try again.
_KNOWN: dict[type, tuple[str, int]] = {
    InvalidRequestError: ("invalid_request_error", 400),
    ProviderRefusedError: ("invalid_request_error", 400),
    UnauthenticatedError: ("authentication_error", 401),
    BudgetExceededError: ("billing_error", 402),
    ForbiddenError: ("permission_error", 403),
    NotFoundError: ("not_found_error", 404),
    ConflictError: ("conflict_error", 409),
    BodyTooLargeError: ("request_too_large", 413),
    RateLimitedError: ("rate_limit_error", 429),
    TooManyMessagesError: ("rate_limit_error", 429),
    ProviderError: ("api_error", 500),
    TimedOutError: ("timeout_error", 504),
    OverloadedError: ("overloaded_error", 529),
    UnavailableError: ("overloaded_error", 529),
}


def status_of(error: AetherError) -> int:
    return _kind_of(error)[1]


def body_of(error: AetherError, request_id: str | None = None) -> bytes:
    body = {"type": "error", "error": {"type": _kind_of(error)[0], "message": error.message}}
    return orjson.dumps(body | ({"request_id": request_id} if request_id else {}))


def event_of(error: AetherError, request_id: str | None = None) -> bytes:
    """For a stream that has begun: its status has been sent, so the error is its last event."""
    return b"event: error\ndata: " + body_of(error, request_id) + b"\n\n"


def _kind_of(error: AetherError) -> tuple[str, int]:
    for ancestor in type(error).__mro__:
        if ancestor in _KNOWN:
            return _KNOWN[ancestor]
    return ("invalid_request_error", error.status) if error.status < 500 else ("api_error", 500)
