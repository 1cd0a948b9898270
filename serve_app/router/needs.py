"""What a request asks of a model, read from its raw body without understanding the rest of it.

Tokens are estimated, never counted: a tokenizer costs more than the whole gateway may, and each vendor has another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from configs.catalog import Modality

Endpoint = Literal["openai-chat", "openai-responses", "anthropic", "embeddings"]

BYTES_PER_TOKEN = 4
"""English text and JSON, in every current vocabulary; text in other scripts has about as many bytes per token."""
IMAGE_TOKENS = 1_500
"""A large image: OpenAI counts up to 1,536 patches, Anthropic 1,568 tokens (a little more on some models)."""
LOW_DETAIL_TOKENS = 85
PDF_PAGE_TOKENS = 3_000
"""Anthropic's upper figure for a page's text, which its image comes on top of."""
PDF_PAGE_BYTES = 100_000
UNSEEN_PDF_PAGES = 4
"""Of a document given by address or id."""
AUDIO_BYTES_PER_TOKEN = 500
"""16 kB a second (MP3 at 128 kbit/s), of which Gemini makes 32 tokens."""
_DEPTH = 4
_SHORTEST_PAYLOAD = 256

_MEDIA: dict[str, Literal["image", "document", "audio"]] = {
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "file": "document",
    "input_file": "document",
    "document": "document",
    "input_audio": "audio",
}
_TOOL_ITEMS = {"tool_use", "tool_result", "function_call", "function_call_output"}


@dataclass(frozen=True, slots=True)
class Needs:
    """`input_tokens` is an estimate; `output_tokens` is what the caller allows at most, 0 when they did not say.

    `longest_tokens` is what has to fit into the context at once: all of the input but for embeddings, where each text
    stands alone.
    """

    kind: Literal["chat", "embeddings"] = "chat"
    modalities: frozenset[Modality] = frozenset({"text"})
    tools: bool = False
    json_schema: bool = False
    reasoning: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    longest_tokens: int = 0


@dataclass(slots=True)
class _Seen:
    """What a walk through the messages has found."""

    modalities: set[Modality] = field(default_factory=lambda: {"text"})
    tools: bool = False
    payload_bytes: int = 0
    media_tokens: int = 0


def needs_of(endpoint: Endpoint, raw: Mapping[str, Any], body_bytes: int) -> Needs:
    """Never raises: what is not shaped as the dialect says counts as text. `body_bytes` is the body's length."""
    if endpoint == "embeddings":
        return _embedding_needs(raw.get("input"), body_bytes)
    seen = _Seen()
    turns = raw.get("input") if endpoint == "openai-responses" else raw.get("messages")
    if isinstance(turns, list):
        _walk(turns, seen, _DEPTH)
    tokens = max(body_bytes - seen.payload_bytes, 0) // BYTES_PER_TOKEN + seen.media_tokens
    wants_schema, wants_reasoning, output = _READERS[endpoint](raw)
    return Needs(
        modalities=frozenset(seen.modalities),
        tools=seen.tools or bool(raw.get("tools")),
        json_schema=wants_schema,
        reasoning=wants_reasoning,
        input_tokens=tokens,
        output_tokens=output,
        longest_tokens=tokens,
    )


def _embedding_needs(given: object, body_bytes: int) -> Needs:
    """A text, tokens, or a list of either."""
    texts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    sizes = [_text_tokens(text) for text in texts]
    total = sum(sizes) or body_bytes // BYTES_PER_TOKEN
    return Needs(kind="embeddings", input_tokens=total, longest_tokens=max(sizes))


def _text_tokens(text: object) -> int:
    if isinstance(text, str):
        return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)
    return len(text) if isinstance(text, list) else 0


def _walk(parts: Iterable[object], seen: _Seen, depth: int) -> None:
    """Messages, items, blocks and parts are all objects with a `type` and perhaps a list of more below them."""
    for part in parts:
        if not isinstance(part, dict):
            continue
        kind = part.get("type")
        if not isinstance(kind, str):
            kind = ""
        if kind in _MEDIA:
            _see_media(_MEDIA[kind], part, seen, depth)
        elif kind in _TOOL_ITEMS or part.get("tool_calls") or part.get("role") == "tool":
            seen.tools = True
        for below in (part.get("content"), part.get("output")):
            if isinstance(below, list) and depth:
                _walk(below, seen, depth - 1)


def _see_media(kind: Literal["image", "document", "audio"], part: dict[str, Any], seen: _Seen, depth: int) -> None:
    source = part.get("source")
    if isinstance(source, dict) and source.get("type") in {"text", "content"}:
        # Anthropic's document of plain text or of blocks: any model can be given its words.
        if isinstance(source.get("content"), list) and depth:
            _walk(source["content"], seen, depth - 1)
        return
    seen.modalities.add(kind)
    size = _payload_bytes(part)
    seen.payload_bytes += size
    if kind == "document":
        pages = max(size // PDF_PAGE_BYTES, 1) if size else UNSEEN_PDF_PAGES
        seen.media_tokens += pages * PDF_PAGE_TOKENS
    elif kind == "audio":
        seen.media_tokens += size // AUDIO_BYTES_PER_TOKEN
    else:
        seen.media_tokens += LOW_DETAIL_TOKENS if _is_low_detail(part) else IMAGE_TOKENS


def _payload_bytes(part: dict[str, Any]) -> int:
    """Base64 or a `data:` address, which every dialect has in the part or one object below it."""
    size = 0
    for value in part.values():
        for text in value.values() if isinstance(value, dict) else (value,):
            if isinstance(text, str) and len(text) >= _SHORTEST_PAYLOAD:
                size += len(text)
    return size


def _is_low_detail(part: dict[str, Any]) -> bool:
    inner = part.get("image_url")
    return part.get("detail") == "low" or (isinstance(inner, dict) and inner.get("detail") == "low")


def _chat(raw: Mapping[str, Any]) -> tuple[bool, bool, int]:
    return (
        _field(raw, "response_format", "type") in {"json_schema", "json_object"},
        raw.get("reasoning_effort") not in (None, "none"),  # no set: it may be anything, and so not hashable
        _count(raw.get("max_completion_tokens")) or _count(raw.get("max_tokens")),
    )


def _responses(raw: Mapping[str, Any]) -> tuple[bool, bool, int]:
    text = raw.get("text")
    wanted = _field(text, "format", "type") if isinstance(text, dict) else None
    return (
        wanted in {"json_schema", "json_object"},
        _field(raw, "reasoning", "effort") not in {None, "none"},
        _count(raw.get("max_output_tokens")),
    )


def _anthropic(raw: Mapping[str, Any]) -> tuple[bool, bool, int]:
    config = raw.get("output_config")
    wanted = _field(config, "format", "type") if isinstance(config, dict) else None
    return (
        (wanted or _field(raw, "output_format", "type")) == "json_schema",
        _field(raw, "thinking", "type") in {"enabled", "adaptive"},
        _count(raw.get("max_tokens")),
    )


_READERS = {"openai-chat": _chat, "openai-responses": _responses, "anthropic": _anthropic}
"""Each tells: wants a schema kept, wants reasoning, the most tokens it takes."""


def _field(raw: Mapping[str, Any], outer: str, inner: str) -> str | None:
    value = raw.get(outer)
    found = value.get(inner) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
