"""What a relay must know of each wire format: where it goes, how it is signed, where its tokens and its end stand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from serve_app.core.domain.spending import Usage
from serve_app.router.dialects.canonical import Dialect

Headers = list[tuple[str, str]]

ANTHROPIC_VERSION = "2023-06-01"


@dataclass(frozen=True)
class Wire:
    """How the lines begin that end a stream: `ends` whole, `stops` cut short by the provider, `fails` with an error.

    Only what begins a line counts: JSON has no line ends in its strings, so no model's words can look like it.
    """

    path: str
    sign: Callable[[str], Headers]
    usage: Callable[[Mapping[str, Any]], Usage | None]
    ends: tuple[bytes, ...]
    fails: tuple[bytes, ...]
    stops: tuple[bytes, ...] = ()
    forwards: frozenset[bytes] = frozenset()
    """Headers of the client that belong to the dialect and go with the request."""


def _bearer(secret: str) -> Headers:
    return [("authorization", f"Bearer {secret}")]


def _x_api_key(secret: str) -> Headers:
    return [("x-api-key", secret)]


def _x_goog_api_key(secret: str) -> Headers:
    return [("x-goog-api-key", secret)]


def _count(holder: Any, name: str) -> int:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if type(value) is int and value > 0 else 0


def openai_usage(body: Mapping[str, Any]) -> Usage | None:
    """Of a completion, of the last chunk of a stream, or of embeddings."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(
        input=_count(usage, "prompt_tokens"),
        output=_count(usage, "completion_tokens"),
        cached=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
        reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def responses_usage(body: Mapping[str, Any]) -> Usage | None:
    """Of a response, or of an event that carries one."""
    response = body.get("response", body)
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return None
    return Usage(
        input=_count(usage, "input_tokens"),
        output=_count(usage, "output_tokens"),
        cached=_count(usage.get("input_tokens_details"), "cached_tokens"),
        reasoning=_count(usage.get("output_tokens_details"), "reasoning_tokens"),
    )


def anthropic_usage(body: Mapping[str, Any]) -> Usage | None:
    """Of a message, of `message_start` (the input) or of `message_delta` (the output, cumulative).

    Anthropic counts what was read from and written to its cache beside `input_tokens`, not within.
    """
    message = body.get("message", body)
    usage = message.get("usage") if isinstance(message, dict) else None
    if not isinstance(usage, dict):
        return None
    cached, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    return Usage(
        input=_count(usage, "input_tokens") + cached + written,
        output=_count(usage, "output_tokens"),
        cached=cached,
        cache_written=written,
    )


def begins_line(whole: bytes, marks: tuple[bytes, ...]) -> bool:
    return any(mark in whole and (whole.startswith(mark) or b"\n" + mark in whole) for mark in marks)


def later(before: Usage | None, now: Usage) -> Usage:
    """Streams tell their tokens in parts, and each number only grows."""
    if before is None:
        return now
    return Usage(
        input=max(before.input, now.input),
        output=max(before.output, now.output),
        cached=max(before.cached, now.cached),
        cache_written=max(before.cache_written, now.cache_written),
        reasoning=max(before.reasoning, now.reasoning),
    )


EMBEDDINGS_PATH = "/embeddings"
COUNT_TOKENS_PATH = "/v1/messages/count_tokens"

WIRES: Mapping[Dialect, Wire] = {
    Dialect.OPENAI_CHAT: Wire(
        "/chat/completions",
        _bearer,
        openai_usage,
        (b"data: [DONE]", b"data:[DONE]"),
        (b'data: {"error"', b'data:{"error"'),
    ),
    Dialect.OPENAI_RESPONSES: Wire(
        "/responses",
        _bearer,
        responses_usage,
        (b"event: response.completed", b'data: {"type":"response.completed"'),
        (b"event: response.failed", b'data: {"type":"response.failed"', b"event: error", b'data: {"type":"error"'),
        (b"event: response.incomplete", b'data: {"type":"response.incomplete"'),
    ),
    Dialect.ANTHROPIC: Wire(
        "/v1/messages",
        _x_api_key,
        anthropic_usage,
        (b"event: message_stop", b'data: {"type":"message_stop"'),
        (b"event: error", b'data: {"type":"error"'),
        forwards=frozenset({b"anthropic-version", b"anthropic-beta"}),
    ),
}
"""The formats that can be relayed: those clients speak to us."""


def sign(dialect: Dialect, secret: str) -> Headers:
    """The headers that prove who we are to a provider of `dialect`."""
    return _x_goog_api_key(secret) if dialect is Dialect.GEMINI else WIRES[dialect].sign(secret)


def path(dialect: Dialect, model: str, *, is_stream: bool) -> str:
    """Where a provider of `dialect` takes a request; Gemini has the model and the manner in it."""
    if dialect is not Dialect.GEMINI:
        return WIRES[dialect].path
    verb = "streamGenerateContent?alt=sse" if is_stream else "generateContent"
    return f"/v1beta/models/{quote(model, safe='')}:{verb}"
