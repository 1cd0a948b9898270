"""What both directions of the Responses dialect share: items, parts, annotations, token counts.

https://platform.openai.com/docs/api-reference/responses/object
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, assert_never
from urllib.parse import unquote_to_bytes

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import ProviderError
from serve_app.router.dialects.anthropic_wire import call_signature, unwrap, wrap
from serve_app.router.dialects.canonical import (
    Block,
    Dialect,
    Media,
    Opaque,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from serve_app.router.dialects.responses_schema import kind_of

Raw = Mapping[str, Any]

# --- parts ----------------------------------------------------------------------------------------------------


def decode_part(part: Raw) -> Block:
    """A part of a message's content, or of a function's output."""
    match part["type"]:
        case "input_text" | "output_text":
            annotations = tuple(part.get("annotations") or ())
            return Text(part["text"], annotations, Dialect.OPENAI_RESPONSES if annotations else None)
        case "refusal":
            return Refusal(part["refusal"])
        case "input_image":
            media_type, data, url = _located(part.get("image_url"))
            return Media("image", media_type, data, url, part.get("file_id"), detail=part.get("detail"))
        case "input_file":
            media_type, data, _ = _located(part.get("file_data"))
            if part.get("file_data") and data is None:
                # Base64 on its own, without the head of a data URL.
                media_type, data = "application/pdf", part["file_data"]
            return Media(
                "document",
                media_type,
                data,
                part.get("file_url"),
                part.get("file_id"),
                name=part.get("filename"),
                detail=part.get("detail"),
            )
        case _:
            return Opaque(Dialect.OPENAI_RESPONSES, part)


def decode_content(content: str | Sequence[Raw]) -> tuple[Block, ...]:
    """A string is short for one text."""
    return (Text(content),) if isinstance(content, str) else tuple(decode_part(part) for part in content)


def _located(url: str | None) -> tuple[str | None, str | None, str | None]:
    """Media type and base64 of a data URL (RFC 2397), or the address it is otherwise."""
    if url is None or not url.startswith("data:"):
        return None, None, url
    head, _, data = url.removeprefix("data:").partition(",")
    media_type, *parameters = head.split(";")
    if "base64" not in parameters:
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return media_type or "text/plain", data, None


def text_part(text: str, citations: Sequence[Raw] = ()) -> dict[str, Any]:
    annotations = [annotation_of(citation, len(text)) for citation in citations]
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def annotation_of(citation: Raw, length: int) -> dict[str, Any]:
    """A citation in our words where it names a page; any other as it is, because a client passes over types it does not
    know, and a source that is not there is worse. `length` is that of the text it stands for."""
    if isinstance(flat := citation.get("url_citation"), Mapping):
        return {"type": "url_citation", **flat}
    if citation.get("type") == "url_citation" or "url" not in citation:
        return dict(citation)
    return {
        "type": "url_citation",
        "url": citation["url"],
        "title": citation.get("title") or "",
        "start_index": 0,
        "end_index": length,
    }


# --- items ----------------------------------------------------------------------------------------------------


def decode_items(items: Sequence[Raw]) -> list[Block]:
    """The blocks of items a model wrote. A kind only OpenAI knows is kept whole, as `Opaque`."""
    blocks: list[Block] = []
    signatures: dict[str, str] = {}
    for item in items:
        match kind_of(item):
            case "message":
                blocks += decode_content(item["content"])
            case "function_call":
                call_id = item["call_id"]
                blocks.append(
                    ToolCall(call_id, item["name"], item["arguments"], signatures.get(call_id), item.get("id"))
                )
            case "reasoning":
                if signed := call_signature({"signature": item.get("encrypted_content")}):
                    signatures.update([signed])
                else:
                    blocks.append(_thinking(item))
            case "function_call_output":
                content = decode_content(item["output"])
                known = tuple(block for block in content if isinstance(block, Text | Media))
                result = ToolResult(item["call_id"], known)
                blocks.append(result if len(known) == len(content) else Opaque(Dialect.OPENAI_RESPONSES, item))
            case _:
                blocks.append(Opaque(Dialect.OPENAI_RESPONSES, item))
    return blocks


def _thinking(item: Raw) -> Thinking:
    parts = (*(item.get("summary") or ()), *(item.get("content") or ()))
    text = "\n\n".join(part.get("text", "") for part in parts)
    encrypted = item.get("encrypted_content")
    return unwrap(text, encrypted) or Thinking(
        text, encrypted, item_id=item.get("id"), dialect=Dialect.OPENAI_RESPONSES
    )


def has_foreign_thinking(raw: Raw) -> bool:
    """Whether a request brings back thoughts of another vendor's model, in an `encrypted_content` of our making. OpenAI
    would refuse it, so such a request is translated, which leaves them away and notes it, instead of relayed."""
    items = raw.get("input")
    return isinstance(items, list) and any(
        unwrap("", item.get("encrypted_content")) is not None for item in items if item.get("type") == "reasoning"
    )


def encode_thinking(block: Thinking, item_id: str) -> dict[str, Any]:
    """A reasoning item. What another vendor must see again travels wrapped in `encrypted_content`."""
    is_ours = block.dialect is Dialect.OPENAI_RESPONSES
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": block.text}] if block.text else [],
        "encrypted_content": (block.signature or block.encrypted) if is_ours else wrap(block),
    }


def encode_signature(call: ToolCall, item_id: str) -> dict[str, Any]:
    """The reasoning item that brings a tool call's signature back (Gemini's)."""
    thought = Thinking(signature=call.signature, dialect=Dialect.GEMINI)
    return {"id": item_id, "type": "reasoning", "summary": [], "encrypted_content": wrap(thought, call.id)}


def encode_item(block: Block, response_id: str, index: int) -> dict[str, Any]:
    """The item of a block that is one by itself; texts and refusals are parts of a message instead.

    Raises:
        ProviderError: a model's answer holds what a response has no item for.
    """
    match block:
        case Thinking():
            return encode_thinking(block, item_id("rs", response_id, index))
        case ToolCall():
            return {
                "id": item_id("fc", response_id, index),
                "type": "function_call",
                "status": "completed",
                "call_id": block.id,
                "name": block.name,
                "arguments": block.arguments,
            }
        case Media(kind="image", data=str() as data):
            return {
                "id": item_id("ig", response_id, index),
                "type": "image_generation_call",
                "status": "completed",
                "result": data,
            }
        case Opaque(Dialect.OPENAI_RESPONSES, value):
            return dict(value)
        case Opaque() | Media() | ToolResult() | Text() | Refusal():
            raise ProviderError("The model's answer holds a block that the Responses API has no item for.")
        case _:
            assert_never(block)


def message_item(response_id: str, index: int) -> dict[str, Any]:
    return {
        "id": item_id("msg", response_id, index),
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


_INDEX_DIGITS = 4


def item_id(prefix: str, response_id: str, index: int) -> str:
    """The id tells which response the item is of, so that a reference to it finds it by that response's key."""
    return f"{prefix}_{response_id.removeprefix('resp_')}{index:0{_INDEX_DIGITS}x}"


def response_of_item(reference: str) -> str:
    """The id of the response an item with this id is of, if it was named by `item_id`."""
    return "resp_" + reference.partition("_")[2][:-_INDEX_DIGITS]


# --- tokens ---------------------------------------------------------------------------------------------------


def decode_usage(raw: Raw | None) -> Usage:
    if not raw:
        return Usage()
    read, written = raw.get("input_tokens_details") or {}, raw.get("output_tokens_details") or {}
    return Usage(
        input=_count(raw, "input_tokens"),
        output=_count(raw, "output_tokens"),
        cached=_count(read, "cached_tokens"),
        cache_written=_count(read, "cache_write_tokens"),
        reasoning=_count(written, "reasoning_tokens"),
    )


def encode_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_written},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def _count(raw: Raw, name: str) -> int:
    value = raw.get(name)
    return value if isinstance(value, int) and value > 0 else 0
