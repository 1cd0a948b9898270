"""An answer as it is made, in Anthropic's events: read from a provider, written for a client.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import orjson

from serve_app.core.errors import (
    AetherError,
    OverloadedError,
    ProviderError,
    ProviderRefusedError,
    RateLimitedError,
    TimedOutError,
)
from serve_app.router.dialects.anthropic_problems import event_of
from serve_app.router.dialects.anthropic_wire import (
    STOP_REASONS,
    STOPS,
    Raw,
    decode_block,
    decode_usage,
    encode_usage,
    wrap,
    wrap_citation,
)
from serve_app.router.dialects.canonical import (
    Block,
    BlockDelta,
    BlockEnded,
    BlockStarted,
    Dialect,
    Ended,
    Media,
    Opaque,
    Refusal,
    Started,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

_ERRORS: Mapping[str, type[AetherError]] = {
    "overloaded_error": OverloadedError,
    "rate_limit_error": RateLimitedError,
    "timeout_error": TimedOutError,
    "api_error": ProviderError,
}


def decode_error(error: Raw) -> AetherError:
    """What a provider tells in the `error` of a body or an event."""
    kind, message = str(error.get("type")), str(error.get("message") or "The provider failed.")
    return _ERRORS.get(kind, ProviderRefusedError)(message, provider_type=kind)


# --- from a provider ----------------------------------------------------------------------------------------


@dataclass
class _Arriving:
    """A block as it comes. One only Anthropic knows is held back until it is whole."""

    block: Block
    raw: dict[str, Any]
    is_held: bool
    arguments: str = ""


class AnthropicStreamDecoder:
    """Events of kinds yet unknown are passed over, as Anthropic asks of its clients."""

    def __init__(self) -> None:
        self._open: dict[int, _Arriving] = {}
        self._usage: dict[str, Any] = {}
        self._stop: tuple[str, str | None] | None = None
        self._highest = -1

    def decode(self, event: str | None, data: Raw) -> Iterable[StreamEvent]:
        try:
            match data.get("type", event):
                case "message_start":
                    return [self._start(data["message"])]
                case "content_block_start":
                    return self._open_block(data["index"], data["content_block"])
                case "content_block_delta":
                    return self._delta(data["index"], data["delta"])
                case "content_block_stop":
                    return self._close_block(data["index"])
                case "message_delta":
                    return self._message_delta(data)
                case "message_stop":
                    return self._end()
                case "error":
                    raise decode_error(data["error"])
                case _:
                    return ()
        except (KeyError, TypeError, AttributeError, ValueError) as exc:
            raise ProviderError("The provider sent an event that is not Anthropic's dialect.", event=event) from exc

    def end(self) -> Iterable[StreamEvent]:
        """Nothing is owed: an Anthropic stream says itself that it is over."""
        return ()

    def _start(self, message: Raw) -> Started:
        self._usage.update(message.get("usage") or {})
        return Started(message["id"], message["model"], decode_usage(self._usage))

    def _open_block(self, index: int, raw: Raw) -> list[StreamEvent]:
        block = decode_block(raw)
        self._highest = max(self._highest, index)
        arriving = self._open[index] = _Arriving(block, dict(raw), isinstance(block, Opaque))
        match block:
            case Opaque():
                return []
            case ToolCall():
                arriving.arguments = "" if block.arguments == "{}" else block.arguments
                arriving.block = replace(block, arguments=arriving.arguments)
            case Text():
                # Whose words later citations are in is told before they come.
                arriving.block = replace(block, citation_dialect=Dialect.ANTHROPIC)
        return [BlockStarted(index, arriving.block)]

    def _delta(self, index: int, delta: Raw) -> list[StreamEvent]:
        arriving = self._open[index]
        if delta["type"] == "input_json_delta":
            arriving.arguments += delta["partial_json"]
        if arriving.is_held:
            _grow(arriving.raw, delta)
            return []
        match delta["type"]:
            case "text_delta":
                return [BlockDelta(index, text=delta["text"])]
            case "input_json_delta":
                return [BlockDelta(index, arguments=delta["partial_json"])] if delta["partial_json"] else []
            case "thinking_delta":
                return [BlockDelta(index, thinking=delta["thinking"])]
            case "signature_delta":
                return [BlockDelta(index, signature=delta["signature"])]
            case "citations_delta":
                return [BlockDelta(index, citation=delta["citation"])]
            case kind:
                raise ProviderError(f"The provider sent a delta of an unknown kind: {kind!r}.")

    def _close_block(self, index: int) -> list[StreamEvent]:
        arriving = self._open.pop(index)
        if arriving.is_held:
            # The limit of tokens may have cut it off: then there is no input to run it with.
            with suppress(orjson.JSONDecodeError):
                arriving.raw["input"] = orjson.loads(arriving.arguments)
            return [BlockStarted(index, Opaque(Dialect.ANTHROPIC, arriving.raw)), BlockEnded(index)]
        if isinstance(arriving.block, ToolCall) and not arriving.arguments:
            return [BlockDelta(index, arguments="{}"), BlockEnded(index)]
        return [BlockEnded(index)]

    def _message_delta(self, data: Raw) -> list[StreamEvent]:
        """Its counts are totals, not increments, and stand in for those told before."""
        self._usage.update({name: value for name, value in (data.get("usage") or {}).items() if value is not None})
        delta = data["delta"]
        if delta.get("stop_reason"):
            self._stop = delta["stop_reason"], delta.get("stop_sequence")
        explanation = (delta.get("stop_details") or {}).get("explanation")
        if not explanation:
            return []
        self._highest += 1
        return [BlockStarted(self._highest, Refusal(explanation)), BlockEnded(self._highest)]

    def _end(self) -> list[StreamEvent]:
        if self._stop is None:
            raise ProviderError("The provider ended its answer without a stop reason.")
        reason, sequence = self._stop
        return [Ended(STOPS[reason], decode_usage(self._usage), sequence)]


def _grow(raw: dict[str, Any], delta: Raw) -> None:
    """Add to a held block whatever its delta adds to it, of whatever kind."""
    for name, value in delta.items():
        if name not in {"type", "partial_json"}:
            before = raw.get(name)
            raw[name] = before + value if isinstance(before, str) and isinstance(value, str) else value


UNCITED = "a citation that names no page is left out"


# --- for a client -------------------------------------------------------------------------------------------


@dataclass
class _Written:
    """A block as it is written: `signature` gathers one Anthropic would not know, to be wrapped at the block's end."""

    index: int
    block: Block
    signature: list[str] = field(default_factory=list)
    text: str = ""


class AnthropicStreamEncoder:
    """Numbers blocks itself. What Anthropic's events cannot say is reported in a comment, which clients pass over."""

    def __init__(self) -> None:
        self._open: dict[int, _Written] = {}
        self._count = 0

    def encode(self, event: StreamEvent) -> bytes:
        match event:
            case BlockDelta():
                return self._delta(event)
            case Started():
                return _start(event)
            case BlockStarted(index, block):
                return self._open_block(index, block)
            case BlockEnded(index):
                return self._close_block(index)
            case Ended():
                return b"".join(self._close_block(index) for index in tuple(self._open)) + _end(event)
            case _:
                assert_never(event)

    def error(self, error: AetherError) -> bytes:
        return event_of(error)

    def _open_block(self, index: int, block: Block) -> bytes:
        if isinstance(block, Media | ToolResult):
            return _comment(f"a block of kind {type(block).__name__} is left out")
        signed = b""
        if isinstance(block, ToolCall) and block.signature:
            signed = self._signature_of(block.id, block.signature)
        written = self._open[index] = _Written(self._next(), block)
        start, *deltas = _skeleton(block)
        opened = {"type": "content_block_start", "index": written.index, "content_block": start}
        told = [_delta(written.index, delta) for delta in deltas]
        if isinstance(block, Text):
            written.text = block.text
            told += [_citation(written, citation) for citation in block.citations]
        return signed + _event("content_block_start", opened) + b"".join(told)

    def _next(self) -> int:
        self._count += 1
        return self._count - 1

    def _signature_of(self, call_id: str, signature: str) -> bytes:
        """A thinking block that is there for a tool call's signature only."""
        thought = Thinking(signature=signature, dialect=Dialect.GEMINI)
        index = self._next()
        start = {"type": "thinking", "thinking": "", "signature": ""}
        return (
            _event("content_block_start", {"type": "content_block_start", "index": index, "content_block": start})
            + _delta(index, {"type": "signature_delta", "signature": wrap(thought, call_id)})
            + _event("content_block_stop", {"type": "content_block_stop", "index": index})
        )

    def _delta(self, delta: BlockDelta) -> bytes:
        written = self._open.get(delta.index)
        if written is None:  # a block that was left out, and reported
            return b""
        if delta.text is not None or delta.refusal is not None:
            written.text += delta.text or ""
            return _delta(written.index, {"type": "text_delta", "text": delta.text or delta.refusal or ""})
        if delta.arguments is not None:
            return _delta(written.index, {"type": "input_json_delta", "partial_json": delta.arguments})
        if delta.thinking is not None:
            return _delta(written.index, {"type": "thinking_delta", "thinking": delta.thinking})
        if delta.citation is not None:
            return _citation(written, delta.citation)
        if delta.signature is not None and (is_foreign(written.block) or isinstance(written.block, ToolCall)):
            written.signature.append(delta.signature)
            return b""
        return _delta(written.index, {"type": "signature_delta", "signature": delta.signature or ""})

    def _close_block(self, index: int) -> bytes:
        written = self._open.pop(index, None)
        if written is None:
            return b""
        stop = _event("content_block_stop", {"type": "content_block_stop", "index": written.index})
        signature = "".join(written.signature)
        if isinstance(written.block, ToolCall) and signature:
            return stop + self._signature_of(written.block.id, signature)
        if isinstance(written.block, Thinking) and is_foreign(written.block):
            signed = wrap(replace(written.block, signature=signature or written.block.signature))
            return _delta(written.index, {"type": "signature_delta", "signature": signed}) + stop
        return stop


def is_foreign(block: Block) -> bool:
    return isinstance(block, Thinking) and block.dialect is not Dialect.ANTHROPIC


def refuse_opaque(block: Opaque) -> ProviderError:
    kind = block.value.get("type", "unknown")
    return ProviderError(f"The model answered with a block of kind {kind!r}, which Anthropic's dialect cannot carry.")


def _skeleton(block: Block) -> list[dict[str, Any]]:
    """How a block starts, then what of it is known already, as deltas."""
    match block:
        case Text(text) | Refusal(text):
            return [{"type": "text", "text": ""}, *_some("text_delta", "text", text)]
        case ToolCall(call_id, name, arguments):
            start = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            return [start, *_some("input_json_delta", "partial_json", arguments)]
        case Thinking(encrypted=str() as data, dialect=Dialect.ANTHROPIC):
            return [{"type": "redacted_thinking", "data": data}]
        case Thinking(text, signature):
            own = "" if is_foreign(block) else signature or ""
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = _some("thinking_delta", "thinking", text) + _some("signature_delta", "signature", own)
            return [start, *deltas]
        case Opaque(Dialect.ANTHROPIC, {"type": "server_tool_use", "input": arguments} as value):
            delta = {"type": "input_json_delta", "partial_json": orjson.dumps(arguments).decode()}
            return [{**value, "input": {}}, delta]
        case Opaque(Dialect.ANTHROPIC, value):
            return [dict(value)]
        case Opaque():
            raise refuse_opaque(block)
        case _:
            raise TypeError(f"no block of an answer: {block!r}")


def _some(kind: str, name: str, value: str) -> list[dict[str, Any]]:
    return [{"type": kind, name: value}] if value else []


def _citation(written: _Written, citation: Raw) -> bytes:
    told = encode_citation(citation, written.block, written.text)
    return _delta(written.index, {"type": "citations_delta", "citation": told}) if told else _comment(UNCITED)


def encode_citation(citation: Raw, block: Block, text: str) -> Raw | None:
    dialect = block.citation_dialect if isinstance(block, Text) else None
    return citation if dialect is Dialect.ANTHROPIC else wrap_citation(citation, dialect, text)


def _start(event: Started) -> bytes:
    message: dict[str, Any] = {
        "id": event.id,
        "type": "message",
        "role": "assistant",
        "model": event.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": encode_usage(event.usage),
    }
    return _event("message_start", {"type": "message_start", "message": message})


def _end(event: Ended) -> bytes:
    delta = {"stop_reason": STOP_REASONS[event.stop], "stop_sequence": event.stop_sequence}
    told = {"type": "message_delta", "delta": delta, "usage": encode_usage(event.usage)}
    return _event("message_delta", told) + _event("message_stop", {"type": "message_stop"})


def _delta(index: int, delta: Raw) -> bytes:
    return _event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})


def _event(name: str, data: Raw) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def _comment(text: str) -> bytes:
    return f": Anthropic's dialect cannot carry it: {text}\n\n".encode()
