"""What Chat Completions says in both directions: an assistant's message, token counts, reasons to stop.

`reasoning_content` is how DeepSeek, vLLM and most clients spell thinking. Signatures travel in `reasoning_details`, as
OpenRouter has them, and Gemini's signature of a call in `extra_content`, as Google's own compatible endpoint has it.
https://openrouter.ai/docs/use-cases/reasoning-tokens · https://ai.google.dev/gemini-api/docs/openai
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from serve_app.core.domain.spending import Usage
from serve_app.router.dialects.canonical import (
    Block,
    Dialect,
    Media,
    Opaque,
    Refusal,
    Stop,
    Text,
    Thinking,
    ToolCall,
)

Object = Mapping[str, Any]

FORMAT_OF_DIALECT = {
    Dialect.ANTHROPIC: "anthropic-claude-v1",
    Dialect.OPENAI_RESPONSES: "openai-responses-v1",
    Dialect.GEMINI: "google-gemini-v1",
}
_DIALECT_OF_FORMAT = {name: dialect for dialect, name in FORMAT_OF_DIALECT.items()}

FINISH_OF_STOP = {
    Stop.END: "stop",
    Stop.LENGTH: "length",
    Stop.STOP_SEQUENCE: "stop",
    Stop.TOOL_CALLS: "tool_calls",
    Stop.REFUSAL: "content_filter",
    Stop.CONTENT_FILTER: "content_filter",
    Stop.PAUSE: "stop",
    Stop.CONTEXT_FULL: "length",
}
_STOP_OF_FINISH = {
    "stop": Stop.END,
    "length": Stop.LENGTH,
    "tool_calls": Stop.TOOL_CALLS,
    "function_call": Stop.TOOL_CALLS,
    "content_filter": Stop.CONTENT_FILTER,
    "model_length": Stop.CONTEXT_FULL,  # Mistral's
}


def finish_of(stop: Stop, *, has_refusal: bool) -> str:
    """A refusal in words ends as any message does; one without words can only be told as filtered."""
    return "stop" if stop is Stop.REFUSAL and has_refusal else FINISH_OF_STOP[stop]


def sequence_of(choice: Object) -> str | None:
    """Which stop sequence was met: vLLM's field, where a number is a token's."""
    sequence = choice.get("stop_reason")
    return sequence if isinstance(sequence, str) else None


def stop_of(finish: str | None, sequence: str | None, *, has_calls: bool, has_refusal: bool) -> Stop:
    """Some servers say "stop" after tool calls too."""
    stop = _STOP_OF_FINISH.get(finish or "stop", Stop.END)
    if stop is Stop.END and sequence is not None:
        return Stop.STOP_SEQUENCE
    if stop is not Stop.END:
        return stop
    if has_calls:
        return Stop.TOOL_CALLS
    return Stop.REFUSAL if has_refusal else Stop.END


def usage_of(told: Object | None) -> Usage:
    if not told:
        return Usage()
    read, written = told.get("prompt_tokens_details") or {}, told.get("completion_tokens_details") or {}
    prompt, completion = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    reasoning = _count(written, "reasoning_tokens")
    if reasoning and told.get("total_tokens") == prompt + completion + reasoning:
        completion += reasoning  # xAI counts what was thought beside what was said
    return Usage(
        input=prompt,
        output=completion,
        cached=_count(read, "cached_tokens") or _count(told, "prompt_cache_hit_tokens"),
        cache_written=_count(read, "cache_write_tokens"),
        reasoning=reasoning,
    )


def _count(told: Object, name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def told_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_written},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


# --- from a message -----------------------------------------------------------------------------------------------


def assistant_blocks(message: Object) -> Iterator[Block]:
    """What an assistant said, whether a provider tells it now or a client sends it back."""
    thoughts = list(_thoughts(message))
    yield from (thought for thought in thoughts if thought.text or thought.encrypted)
    citations = tuple(message.get("annotations") or ())
    match message.get("content"):
        case str(text) if text:
            yield Text(text, citations, Dialect.OPENAI_CHAT if citations else None)
        case list(parts):
            yield from (block for part in parts for block in _assistant_part(part))
    # A signature without words is of what was said before it.
    yield from (thought for thought in thoughts if not (thought.text or thought.encrypted))
    if refusal := message.get("refusal"):
        yield Refusal(refusal)
    if audio := message.get("audio"):
        yield Opaque(Dialect.OPENAI_CHAT, {"type": "audio", "audio": audio})
    for image in message.get("images") or ():
        yield image_of(image["image_url"])
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield call_of(call, index)


def call_of(call: Object, index: int) -> ToolCall | Opaque:
    """Servers that give a call no id get one by its place, so that its result can name it."""
    if call.get("type") == "custom":
        return Opaque(Dialect.OPENAI_CHAT, call)
    function = call["function"]
    arguments = function.get("arguments")
    return ToolCall(
        id=call.get("id") or f"call_{index}",
        name=function["name"],
        arguments=arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode(),
        signature=signature_of(call),
    )


def signature_of(call: Object) -> str | None:
    google = (call.get("extra_content") or {}).get("google") or {}
    signature = google.get("thought_signature")
    return signature if isinstance(signature, str) else None


def image_of(image: Object, cache: Object | None = None) -> Media:
    media_type, data = split_data_url(image["url"])
    url = image["url"] if data is None else None
    return Media("image", media_type=media_type, data=data, url=url, detail=image.get("detail"), cache=cache)


def split_data_url(url: str) -> tuple[str | None, str | None]:
    """(media type, base64), or (None, None) for any other address."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None, None
    return head.removeprefix("data:").partition(";")[0] or None, data


def thought_of(detail: Object) -> Thinking:
    dialect = _DIALECT_OF_FORMAT.get(detail.get("format") or "", Dialect.OPENAI_CHAT)
    if detail.get("type") == "reasoning.encrypted":
        return Thinking(encrypted=detail.get("data"), item_id=detail.get("id"), dialect=dialect)
    text = detail.get("text") or detail.get("summary") or ""
    return Thinking(text, signature=detail.get("signature"), item_id=detail.get("id"), dialect=dialect)


def _thoughts(message: Object) -> Iterator[Thinking]:
    if details := message.get("reasoning_details"):
        yield from map(thought_of, details)
    elif text := message.get("reasoning_content") or message.get("reasoning"):
        yield Thinking(text, dialect=Dialect.OPENAI_CHAT)


def _assistant_part(part: Object) -> Iterator[Block]:
    match part["type"]:
        case "text":
            yield Text(part["text"], cache=part.get("cache_control"))
        case "refusal":
            yield Refusal(part["refusal"])
        case "thinking":  # Mistral's
            words = "".join(piece.get("text", "") for piece in part.get("thinking") or ())
            yield Thinking(words, dialect=Dialect.OPENAI_CHAT)
        case _:
            yield Opaque(Dialect.OPENAI_CHAT, part)


# --- to a message -------------------------------------------------------------------------------------------------


def told_thoughts(thoughts: Iterable[Thinking]) -> dict[str, Any]:
    """The fields of a message, or of a delta, that hold what was thought; empty when nothing was."""
    thoughts = tuple(thoughts)
    told: dict[str, Any] = {}
    if words := "".join(thought.text for thought in thoughts):
        told["reasoning_content"] = words
    if any(thought.signature or thought.encrypted for thought in thoughts):
        told["reasoning_details"] = [detail_of(thought, index) for index, thought in enumerate(thoughts)]
    return told


def detail_of(thought: Thinking, index: int) -> dict[str, Any]:
    detail: dict[str, Any] = {"index": index}
    if thought.encrypted:
        detail |= {"type": "reasoning.encrypted", "data": thought.encrypted}
    else:
        detail |= {"type": "reasoning.text", "text": thought.text}
    optional = {
        "signature": thought.signature,
        "id": thought.item_id,
        "format": FORMAT_OF_DIALECT.get(thought.dialect) if thought.dialect else None,
    }
    return detail | {name: value for name, value in optional.items() if value}


def told_call(call: ToolCall) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    if call.signature:
        told["extra_content"] = told_signature(call.signature)
    return told


def told_signature(signature: str) -> dict[str, Any]:
    return {"google": {"thought_signature": signature}}


def told_image(media: Media) -> dict[str, Any]:
    url = media.url or f"data:{media.media_type or 'image/png'};base64,{media.data}"
    image = {"url": url} if media.detail is None else {"url": url, "detail": media.detail}
    return {"type": "image_url", "image_url": image}


def told_citation(citation: Object, start: int, end: int) -> dict[str, Any]:
    """A citation as an annotation: OpenAI knows one kind here, an address for a piece of the text.

    `start` and `end` are the place of the cited text where `citation` does not tell its own. One without an address (of
    a document, say) stays as it came, under its own type.
    """
    source = citation.get("web") or citation
    url = source.get("url") or source.get("uri")
    if not url:
        return dict(citation)
    place = {"start_index": citation.get("start_index", start), "end_index": citation.get("end_index", end)}
    return {"type": "url_citation", "url_citation": {"url": url, "title": source.get("title") or url, **place}}


def left_out(block: Block) -> str | None:
    """The note on a block of an answer that Chat Completions has no place for: the work of another dialect's tool."""
    if isinstance(block, Opaque) and block.dialect is not Dialect.OPENAI_CHAT:
        return f"a block of type '{block.value.get('type', next(iter(block.value), None))}' is left out"
    return None
