"""Our errors in Anthropic's words."""

import orjson
import pytest

from serve_app.core.errors import (
    AetherError,
    BodyTooLargeError,
    BudgetExceededError,
    ContentFilteredError,
    ContextLengthError,
    CorruptedError,
    ForbiddenError,
    InvalidRequestError,
    MalformedBodyError,
    MethodNotAllowedError,
    OverloadedError,
    ProviderError,
    ProviderRefusedError,
    RateLimitedError,
    SlowBodyError,
    TimedOutError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)
from serve_app.router.dialects.anthropic_problems import body_of, event_of, status_of


@pytest.mark.parametrize(
    ("kind", "status", "name"),
    [
        (InvalidRequestError, 400, "invalid_request_error"),
        (MalformedBodyError, 400, "invalid_request_error"),
        (ContextLengthError, 400, "invalid_request_error"),
        (ProviderRefusedError, 400, "invalid_request_error"),
        (ContentFilteredError, 400, "invalid_request_error"),
        (UnauthenticatedError, 401, "authentication_error"),
        (BudgetExceededError, 402, "billing_error"),
        (ForbiddenError, 403, "permission_error"),
        (UnknownModelError, 404, "not_found_error"),
        (MethodNotAllowedError, 405, "invalid_request_error"),
        (SlowBodyError, 408, "invalid_request_error"),
        (BodyTooLargeError, 413, "request_too_large"),
        (RateLimitedError, 429, "rate_limit_error"),
        (AetherError, 500, "api_error"),
        (CorruptedError, 500, "api_error"),
        (ProviderError, 500, "api_error"),
        (TimedOutError, 504, "timeout_error"),
        (OverloadedError, 529, "overloaded_error"),
        (UnavailableError, 529, "overloaded_error"),
    ],
)
def test_every_error_has_anthropics_status_and_type(kind: type[AetherError], status: int, name: str) -> None:
    error = kind("No.")
    assert status_of(error) == status
    assert orjson.loads(body_of(error, "req_1")) == {
        "type": "error",
        "error": {"type": name, "message": "No."},
        "request_id": "req_1",
    }


def test_an_event_is_named() -> None:
    assert event_of(OverloadedError("Overloaded"), "req_1") == (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},'
        b'"request_id":"req_1"}\n\n'
    )
