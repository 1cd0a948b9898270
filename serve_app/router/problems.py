"""Errors as the clients of each dialect expect them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serve_app.core.errors import (
    AetherError,
    BudgetExceededError,
    ContextLengthError,
    ProviderRefusedError,
    UnauthenticatedError,
)
from serve_app.core.telemetry import get_logger
from serve_app.router.dialects import anthropic_problems, openai_problems
from serve_app.router.dialects.canonical import Dialect

Headers = list[tuple[bytes, bytes]]

_UNEXPECTED = AetherError("The server had an error while processing your request.", code="server_error")


class Problems(Protocol):
    """How one dialect tells an error."""

    @property
    def dialect(self) -> Dialect: ...

    def status(self, error: AetherError) -> int: ...

    def body(self, error: AetherError, request_id: str) -> bytes: ...

    def event(self, error: AetherError, request_id: str) -> bytes:
        """For a stream that has begun: its status has been sent, so the error is its last event."""
        ...


@dataclass(frozen=True)
class OpenAIProblems:
    """`{"error": {"message", "type", "param", "code"}}`; clients read the request's id from its header."""

    dialect: Dialect = Dialect.OPENAI_CHAT

    def status(self, error: AetherError) -> int:
        return openai_problems.status_of(error)

    def body(self, error: AetherError, request_id: str) -> bytes:  # noqa: ARG002 - OpenAI tells it in a header
        return openai_problems.body_of(error)

    def event(self, error: AetherError, request_id: str) -> bytes:  # noqa: ARG002 - the same
        """See `Problems.event`."""
        if self.dialect is Dialect.OPENAI_RESPONSES:
            return openai_problems.response_event_of(error)
        return openai_problems.event_of(error)


@dataclass(frozen=True)
class AnthropicProblems:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`."""

    dialect: Dialect = Dialect.ANTHROPIC

    def status(self, error: AetherError) -> int:
        return anthropic_problems.status_of(error)

    def body(self, error: AetherError, request_id: str) -> bytes:
        return anthropic_problems.body_of(error, request_id)

    def event(self, error: AetherError, request_id: str) -> bytes:
        return anthropic_problems.event_of(error, request_id)


def known(exc: Exception) -> AetherError:
    """The error to tell. One nobody foresaw is logged here, and told without its words."""
    if isinstance(exc, AetherError):
        return exc
    get_logger().error("unexpected error", exc_info=exc)
    return _UNEXPECTED


def answer_of(problems: Problems, error: AetherError, request_id: str) -> tuple[int, bytes, Headers]:
    """Status, body and headers. What a provider of the same dialect said to a request is told in its own words."""
    headers = _headers_of(error)
    details: Mapping[str, Any] = error.details
    if details.get("body") and details.get("dialect") is problems.dialect:
        return details["provider_status"], details["body"], headers
    if isinstance(error, ProviderRefusedError | ContextLengthError):
        return 400, problems.body(error, request_id), headers
    return problems.status(error), problems.body(error, request_id), headers


def _headers_of(error: AetherError) -> Headers:
    headers: Headers = []
    if error.status == 405 and "allow" in error.details:
        headers.append((b"allow", str(error.details["allow"]).encode()))
    wait_s = error.details.get("retry_after_s")
    if wait_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, -(-wait_s // 1))))
        headers.append((b"retry-after-ms", b"%d" % max(1, wait_s * 1000)))
    elif error.status == 503:
        headers.append((b"retry-after", b"1"))
    if isinstance(error, BudgetExceededError):
        headers.append((b"x-should-retry", b"false"))
    if isinstance(error, UnauthenticatedError):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
