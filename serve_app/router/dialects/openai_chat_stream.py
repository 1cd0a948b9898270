"""Chat Completions streams: `chat.completion.chunk` events written for clients.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

from typing import Any, assert_never

import orjson

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import AetherError
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
)
from serve_app.router.dialects.openai_chat_message import (
    detail_of,
    finish_of,
    left_out,
    told_call,
    told_citation,
    told_image,
    told_signature,
    told_usage,
)
from serve_app.router.problems import OpenAIProblems


class ChatStreamEncoder:
    """See `StreamEncoder`. `now` dates a stream whose provider does not, in seconds since 1970."""

    def __init__(self, *, wants_usage: bool, now: int) -> None:
        self._wants_usage = wants_usage
        self._now = now
        self._head: dict[str, Any] = {}
        self._before = b""
        self._after = b""
        self._calls: dict[int, int] = {}
        """Our block's index → its place among the tool calls."""
        self._starts: dict[int, int] = {}
        """Of a text block: where it starts in the whole text."""
        self._thoughts: dict[int, _Thought] = {}
        self._length = 0
        self._has_refusal = False

    def encode(self, event: StreamEvent) -> bytes:
        """See `StreamEncoder.encode`."""
        match event:
            case Started():
                return self._started(event)
            case BlockStarted():
                return self._block_started(event.index, event.block)
            case BlockDelta():
                return self._block_delta(event)
            case BlockEnded():
                return self._block_ended(event.index)
            case Ended():
                return self._ended(event)
            case _:
                assert_never(event)

    def error(self, error: AetherError) -> bytes:
        """See `StreamEncoder.error`."""
        return OpenAIProblems().event(error, request_id="")  # clients read the id from a header

    def _started(self, event: Started) -> bytes:
        self._head = {
            "id": event.id,
            "object": "chat.completion.chunk",
            "created": event.created or self._now,
            "model": event.model,
        }
        # All chunks of a stream differ in their delta only, so the rest is written once.
        self._before = b"data: " + orjson.dumps(self._head)[:-1] + b',"choices":[{"index":0,"delta":'
        self._after = b"}]" + (b',"usage":null' if self._wants_usage else b"") + b"}\n\n"
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def _chunk(self, delta: dict[str, Any], finish: bytes = b"null") -> bytes:
        tail = b',"logprobs":null,"finish_reason":' + finish
        return self._before + orjson.dumps(delta) + tail + self._after

    def _block_started(self, index: int, block: Block) -> bytes:
        match block:
            case Text(text, citations):
                self._starts[index] = self._length
                told = self._said(text) if text else b""
                return told + b"".join(self._cited(index, dict(citation)) for citation in citations)
            case Refusal(text):
                self._has_refusal = True
                return self._chunk({"refusal": text}) if text else b""
            case Thinking():
                self._thoughts[index] = _Thought(block, len(self._thoughts))
                return self._chunk({"reasoning_content": block.text}) if block.text else b""
            case ToolCall():
                return self._tool_call(index, told_call(block))
            case Media():
                return self._chunk({"images": [told_image(block)]})
            case Opaque(Dialect.OPENAI_CHAT, value) if value["type"] == "custom":
                return self._tool_call(index, dict(value))
            case _:
                note = left_out(block)
                return b": " + note.encode() + b"\n\n" if note else b""

    def _tool_call(self, index: int, told: dict[str, Any]) -> bytes:
        self._calls[index] = len(self._calls)
        return self._chunk({"tool_calls": [{"index": self._calls[index], **told}]})

    def _block_delta(self, delta: BlockDelta) -> bytes:
        index = delta.index
        if delta.text is not None:
            return self._said(delta.text)
        if delta.arguments is not None:
            return self._more_of_call(index, {"function": {"arguments": delta.arguments}})
        if delta.thinking is not None:
            if index in self._thoughts:
                self._thoughts[index].words.append(delta.thinking)
            return self._chunk({"reasoning_content": delta.thinking})
        if delta.refusal is not None:
            self._has_refusal = True
            return self._chunk({"refusal": delta.refusal})
        if delta.citation is not None:
            return self._cited(index, dict(delta.citation))
        if delta.signature is not None and index in self._calls:
            return self._more_of_call(index, {"extra_content": told_signature(delta.signature)})
        if delta.signature is not None and index in self._thoughts:
            self._thoughts[index].signature = delta.signature
        return b""

    def _said(self, text: str) -> bytes:
        self._length += len(text)
        return self._chunk({"content": text})

    def _cited(self, index: int, citation: dict[str, Any]) -> bytes:
        told = told_citation(citation, self._starts.get(index, 0), self._length)
        return self._chunk({"annotations": [told]})

    def _more_of_call(self, index: int, more: dict[str, Any]) -> bytes:
        return self._chunk({"tool_calls": [{"index": self._calls[index], **more}]})

    def _block_ended(self, index: int) -> bytes:
        """A signature is of the whole thought, so the two are told together once both are known."""
        thought = self._thoughts.get(index)
        if thought is None or not (whole := thought.whole()):
            return b""
        return self._chunk({"reasoning_details": [detail_of(whole, thought.place)]})

    def _ended(self, event: Ended) -> bytes:
        finish = finish_of(event.stop, has_refusal=self._has_refusal)
        reason = orjson.dumps(finish)
        if event.stop_sequence is not None:
            reason += b',"stop_reason":' + orjson.dumps(event.stop_sequence)
        told = self._chunk({}, reason)
        if self._wants_usage:
            told += self._usage(event.usage)
        return told + b"data: [DONE]\n\n"

    def _usage(self, usage: Usage) -> bytes:
        return b"data: " + orjson.dumps({**self._head, "choices": [], "usage": told_usage(usage)}) + b"\n\n"


class _Thought:
    """One thought as it comes, and its place among the thoughts of the answer."""

    def __init__(self, start: Thinking, place: int) -> None:
        self._start = start
        self.place = place
        self.words = [start.text]
        self.signature = start.signature

    def whole(self) -> Thinking | None:
        """None when there is nothing to tell but the words, which have been told."""
        if not (self.signature or self._start.encrypted):
            return None
        start = self._start
        return Thinking("".join(self.words), self.signature, start.encrypted, start.item_id, start.dialect)
