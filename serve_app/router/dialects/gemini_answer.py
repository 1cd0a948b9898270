"""What a Gemini answer says, whole or in a stream: parts, token counts, reasons to stop, sources, blocked prompts."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import orjson

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import ContentFilteredError, ProviderError
from serve_app.router.dialects.canonical import Block, Dialect, Media, Opaque, Stop, Text, Thinking, ToolCall

Object = Mapping[str, Any]

_FILTERED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
    }
)
_FAILED = frozenset(
    {
        "OTHER",
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "IMAGE_OTHER",
        "NO_IMAGE",
    }
)
"""The model got lost: what there is of the answer is no answer."""


_KIND_OF_FAMILY: Mapping[str, Literal["image", "audio"]] = {"image": "image", "audio": "audio"}


class AnswerReader:
    """Reads the parts of one answer. Calls that have no id get one made of the answer's id and their place."""

    def __init__(self, answer_id: str) -> None:
        self.answer_id = answer_id
        self._calls = 0

    @property
    def has_calls(self) -> bool:
        return self._calls > 0

    def read(self, part: Object) -> Iterator[Block]:
        """One part, as a text and the signature on it where it has both."""
        signature = part.get("thoughtSignature")
        if "functionCall" in part:
            yield self._call(part["functionCall"], signature)
        elif part.get("thought"):
            yield Thinking(part.get("text") or "", signature, dialect=Dialect.GEMINI)
        elif "text" in part:
            if part["text"]:
                yield Text(part["text"])
            if signature:
                yield Thinking(signature=signature, dialect=Dialect.GEMINI)
        elif "inlineData" in part:
            yield _media(part["inlineData"])
            if signature:
                yield Thinking(signature=signature, dialect=Dialect.GEMINI)
        elif part:
            yield Opaque(Dialect.GEMINI, part)

    def _call(self, call: Object, signature: str | None) -> ToolCall:
        told_id = call.get("id") or f"call_{self.answer_id or 'gemini'}_{self._calls}"
        self._calls += 1
        return ToolCall(told_id, call["name"], orjson.dumps(call.get("args") or {}).decode(), signature)


def _media(blob: Object) -> Media:
    family = str(blob["mimeType"]).partition("/")[0]
    return Media(_KIND_OF_FAMILY.get(family, "document"), media_type=blob["mimeType"], data=blob["data"])


def usage_of(told: Object) -> Usage:
    """Google counts thoughts beside the answer, and what its tools read beside the prompt."""
    thoughts = _count(told, "thoughtsTokenCount")
    return Usage(
        input=_count(told, "promptTokenCount") + _count(told, "toolUsePromptTokenCount"),
        output=_count(told, "candidatesTokenCount") + thoughts,
        cached=_count(told, "cachedContentTokenCount"),
        reasoning=thoughts,
    )


def _count(told: Object, name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def stop_of(candidate: Object, *, has_calls: bool) -> Stop:
    """Raises `ProviderError` when the model got lost."""
    reason = candidate.get("finishReason")
    if reason in _FAILED:
        said = candidate.get("finishMessage") or "no reason told"
        raise ProviderError(f"The model stopped with {reason}: {str(said)[:500]}", provider_code=reason)
    if reason in _FILTERED:
        return Stop.CONTENT_FILTER
    if reason == "MAX_TOKENS":
        return Stop.LENGTH
    return Stop.TOOL_CALLS if has_calls else Stop.END


def refuse_blocked(body: Object) -> None:
    """Raises `ContentFilteredError` for a prompt Google would not answer, and what it reported in place of an answer."""
    if error := body.get("error"):
        raise reported(error)
    reason = (body.get("promptFeedback") or {}).get("blockReason")
    if reason:
        raise ContentFilteredError(f"The provider blocked the prompt: {reason}.", provider_code=reason)


def reported(error: object) -> ProviderError:
    told: Object = error if isinstance(error, Mapping) else {"message": error}
    return ProviderError(
        f"The provider reported an error: {str(told.get('message'))[:500]}",
        provider_code=told.get("status") or told.get("code"),
    )


def citations_of(candidate: Object) -> Iterator[Object]:
    """One for each piece of text and source. A source that no piece names is told too."""
    grounding = candidate.get("groundingMetadata") or {}
    chunks = grounding.get("groundingChunks") or []
    named: set[int] = set()
    for support in grounding.get("groundingSupports") or ():
        for index in support.get("groundingChunkIndices") or ():
            if 0 <= index < len(chunks):
                named.add(index)
                yield {"segment": support.get("segment") or {}, **chunks[index]}
    yield from (chunk for index, chunk in enumerate(chunks) if index not in named)
    yield from (candidate.get("citationMetadata") or {}).get("citationSources") or ()
