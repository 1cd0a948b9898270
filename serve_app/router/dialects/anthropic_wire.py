"""What both directions of the Anthropic dialect share: blocks, token counts, stop reasons.

https://platform.claude.com/docs/en/api/messages
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from serve_app.core.domain.spending import Usage
from serve_app.router.dialects.canonical import (
    Block,
    Dialect,
    Media,
    Opaque,
    Stop,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

Raw = Mapping[str, Any]

STOPS = {
    "end_turn": Stop.END,
    "max_tokens": Stop.LENGTH,
    "stop_sequence": Stop.STOP_SEQUENCE,
    "tool_use": Stop.TOOL_CALLS,
    "pause_turn": Stop.PAUSE,
    "refusal": Stop.REFUSAL,
    "model_context_window_exceeded": Stop.CONTEXT_FULL,
}
STOP_REASONS = {stop: reason for reason, stop in STOPS.items()} | {Stop.CONTENT_FILTER: "refusal"}

TIERS = {"standard": "default", "priority": "priority", "batch": "batch"}
"""Anthropic's service tiers of an answer, in the words the canonical type shares with OpenAI."""

_COMMON = frozenset({"type", "cache_control"})
KNOWN_FIELDS: Mapping[str, frozenset[str]] = {
    "text": _COMMON | {"text", "citations"},
    "image": _COMMON | {"source", "transformations"},
    "document": _COMMON | {"source", "title", "context", "citations"},
    "tool_use": _COMMON | {"id", "name", "input", "caller", "toolset_name"},
    "tool_result": _COMMON | {"tool_use_id", "content", "is_error", "toolset_name"},
    "thinking": _COMMON | {"thinking", "signature"},
    "redacted_thinking": _COMMON | {"data"},
}
"""What `decode_block` reads of each kind it knows; a block of another kind is kept whole."""


# --- blocks -------------------------------------------------------------------------------------------------


def decode_block(raw: Raw) -> Block:
    """A block of a request or an answer. One that says more than the canonical type can is kept whole, as `Opaque`."""
    decode = _DECODERS.get(raw["type"])
    block = decode(raw) if decode else None
    return block if block is not None else Opaque(Dialect.ANTHROPIC, raw)


def decode_content(content: str | list[Raw] | None) -> tuple[Block, ...]:
    """A message's content: a string is short for one text block."""
    if isinstance(content, str):
        return (Text(content),)
    return tuple(decode_block(block) for block in content or ())


def _text(raw: Raw) -> Block:
    citations = tuple(raw.get("citations") or ())
    dialect = Dialect.ANTHROPIC if citations else None
    kept = [told for citation in citations if (told := _told(citation.get("encrypted_index"))) and "citation" in told]
    if kept:
        citations, dialect = tuple(told["citation"] for told in kept), _dialect(kept[0])
    return Text(raw["text"], citations, dialect, raw.get("cache_control"))


def _image(raw: Raw) -> Block | None:
    extra = {"transformations": raw["transformations"]} if raw.get("transformations") else {}
    return _media("image", raw, None, extra)


def _document(raw: Raw) -> Block | None:
    extra = {name: raw[name] for name in ("context", "citations") if raw.get(name) is not None}
    return _media("document", raw, raw.get("title"), extra)


def _media(kind: Any, raw: Raw, name: str | None, extra: dict[str, Any]) -> Media | None:
    source, cache = raw["source"], raw.get("cache_control")
    match source["type"]:
        case "base64":
            return Media(kind, source["media_type"], data=source["data"], name=name, extra=extra, cache=cache)
        case "url":
            return Media(kind, url=source["url"], name=name, extra=extra, cache=cache)
        case "file":
            return Media(kind, file_id=source["file_id"], name=name, extra=extra, cache=cache)
        case "text":
            return Media(kind, "text/plain", text=source["data"], name=name, extra=extra, cache=cache)
        case "content" if (words := _words(source["content"])) is not None:
            # Where its blocks end matters to Anthropic's citations, so the source goes back there as it came.
            return Media(kind, text=words, name=name, extra={**extra, "source": source}, cache=cache)
        case _:
            return None


def _words(content: str | list[Raw]) -> str | None:
    if isinstance(content, str):
        return content
    if any(block["type"] != "text" for block in content):
        return None
    return "\n".join(block["text"] for block in content)


def _tool_use(raw: Raw) -> Block | None:
    caller = raw.get("caller")
    if raw.get("toolset_name") or (caller and caller["type"] != "direct"):
        return None
    return ToolCall(raw["id"], raw["name"], orjson.dumps(raw["input"]).decode(), cache=raw.get("cache_control"))


def _tool_result(raw: Raw) -> Block | None:
    content = decode_content(raw.get("content"))
    known = tuple(block for block in content if isinstance(block, Text | Media))
    if raw.get("toolset_name") or len(known) < len(content):
        return None
    return ToolResult(raw["tool_use_id"], known, bool(raw.get("is_error")), cache=raw.get("cache_control"))


def _thinking(raw: Raw) -> Block:
    signature = raw.get("signature") or None
    return unwrap(raw["thinking"], signature) or Thinking(raw["thinking"], signature, dialect=Dialect.ANTHROPIC)


def _redacted(raw: Raw) -> Block:
    return Thinking(encrypted=raw["data"], dialect=Dialect.ANTHROPIC)


_DECODERS: Mapping[str, Callable[[Raw], Block | None]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
}


def encode_arguments(call: ToolCall) -> tuple[dict[str, Any], bool]:
    """A call's `input`, which must be an object here, and whether it is what the model wrote."""
    if not call.arguments.strip():
        return {}, True
    try:
        value = orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        value = None
    return (value, True) if isinstance(value, dict) else ({"arguments": call.arguments}, False)


# --- another model's thoughts and citations ---------------------------------------------------------------------

# A client returns a thinking block's signature and a citation's index untouched. So what another provider needs to see
# again (OpenAI's encrypted reasoning, Gemini's thought signatures) travels in them, marked as ours.
_MARK = "aether:"


def wrap(thinking: Thinking, call_id: str | None = None) -> str:
    """The signature of a thought that is not Claude's. With `call_id` it is the signature of that tool call."""
    told = {
        "dialect": thinking.dialect,
        "signature": thinking.signature,
        "encrypted": thinking.encrypted,
        "item_id": thinking.item_id,
        "call_id": call_id,
    }
    return _keep(told)


def wrap_citation(citation: Raw, dialect: Dialect | None, text: str) -> dict[str, Any] | None:
    """Another dialect's citation of a page, as one from a web search; None when it names no page. `text` is what has
    been said so far in the block it belongs to."""
    source = citation.get("web") or citation.get("url_citation") or citation
    url = source.get("url") or source.get("uri")
    if not url:
        return None
    return {
        "type": "web_search_result_location",
        "url": url,
        "title": source.get("title"),
        "cited_text": text[source.get("start_index") or 0 : source.get("end_index")],
        "encrypted_index": _keep({"dialect": dialect, "citation": citation}),
    }


def _keep(told: Raw) -> str:
    kept = orjson.dumps({name: value for name, value in told.items() if value is not None})
    return _MARK + base64.urlsafe_b64encode(kept).decode()


def unwrap(text: str, signature: str | None) -> Thinking | None:
    """The thought in a signature `wrap` made; None for any other signature."""
    told = _told(signature)
    if told is None:
        return None
    return Thinking(text, told.get("signature"), told.get("encrypted"), told.get("item_id"), _dialect(told))


def call_signature(raw: Raw) -> tuple[str, str] | None:
    """The id of a tool call and its signature, when that is all a thinking block is there for."""
    told = _told(raw.get("signature"))
    if not told or not isinstance(call_id := told.get("call_id"), str):
        return None
    return call_id, str(told.get("signature", ""))


def _dialect(told: Raw) -> Dialect | None:
    return Dialect(told["dialect"]) if told.get("dialect") in set(Dialect) else None


def _told(signature: object) -> dict[str, Any] | None:
    if not isinstance(signature, str) or not signature.startswith(_MARK):
        return None
    try:
        told = orjson.loads(base64.urlsafe_b64decode(signature.removeprefix(_MARK)))
    except (binascii.Error, ValueError):
        return None
    return told if isinstance(told, dict) else None


def must_be_translated(raw: Raw) -> bool:
    """Whether a request brings back thoughts or citations of a model that is not Claude. Anthropic would refuse what
    they are marked with, so such a request cannot be relayed; its translation leaves them away and notes it."""
    return any(
        _told(mark) is not None
        for message in raw["messages"]
        if message["role"] == "assistant" and isinstance(message["content"], list)
        for block in message["content"]
        for mark in _marks(block)
    )


def _marks(block: Raw) -> Iterator[object]:
    if block["type"] == "thinking":
        yield block["signature"]
    elif block["type"] == "text":
        yield from (citation.get("encrypted_index") for citation in block.get("citations") or ())


# --- tokens -------------------------------------------------------------------------------------------------


def decode_usage(raw: Raw) -> Usage:
    """Anthropic counts what was cached apart from the input; we count it in."""
    cached, written = _count(raw, "cache_read_input_tokens"), _count(raw, "cache_creation_input_tokens")
    return Usage(
        input=_count(raw, "input_tokens") + cached + written,
        output=_count(raw, "output_tokens"),
        cached=cached,
        cache_written=written,
        reasoning=_count(raw.get("output_tokens_details") or {}, "thinking_tokens"),
    )


def encode_usage(usage: Usage) -> dict[str, Any]:
    told: dict[str, Any] = {
        "input_tokens": max(usage.input - usage.cached - usage.cache_written, 0),
        "cache_creation_input_tokens": usage.cache_written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    }
    if usage.reasoning:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return told


def _count(raw: Raw, name: str) -> int:
    value = raw.get(name)
    return value if isinstance(value, int) and value > 0 else 0
