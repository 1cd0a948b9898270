"""Canonical events as the events of a Responses stream, numbered without a gap."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from serve_app.core.errors import AetherError, ContentFilteredError, ProviderError, RateLimitedError
from serve_app.router.dialects.canonical import (
    Block,
    BlockDelta,
    BlockEnded,
    BlockStarted,
    Ended,
    Refusal,
    Started,
    Stop,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from serve_app.router.dialects.openai_responses_wire import (
    annotation_of,
    encode_item,
    encode_signature,
    encode_thinking,
    encode_usage,
    item_id,
    message_item,
    text_part,
)

Begin = Callable[[str, int], dict[str, Any]]
"""Makes the response from the model's name and the time it was created (0 when nobody told)."""
Finish = Callable[[dict[str, Any], Stop, Iterable[Block]], None]
"""Sets a response's status from how the model stopped."""


@dataclass
class _Item:
    """An item of the output. It is done when the next one begins or the answer ends, and no sooner: only then is it known
    whether it was cut off."""

    item: dict[str, Any]
    output_index: int
    open_blocks: int = 0
    is_done: bool = False

    @property
    def where(self) -> dict[str, Any]:
        return {"item_id": self.item.get("id"), "output_index": self.output_index}


@dataclass
class _Open:
    """A block as it is written."""

    block: Block
    owner: _Item
    content_index: int = 0
    part: dict[str, Any] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)
    citations: list[Mapping[str, Any]] = field(default_factory=list)
    is_ended: bool = False

    @property
    def where(self) -> dict[str, Any]:
        return {**self.owner.where, "content_index": self.content_index}

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ResponsesStreamEncoder:
    """One stream. When it has ended, `response` is the response as it shall be stored."""

    def __init__(self, begin: Begin, finish: Finish) -> None:
        self._begin = begin
        self._finish = finish
        self._number = 0
        self._items: list[_Item] = []
        self._blocks: dict[int, _Open] = {}
        self._message: _Item | None = None
        self.response: dict[str, Any] | None = None

    def encode(self, event: StreamEvent) -> bytes:
        match event:
            case Started():
                self.response = self._begin(event.model, event.created)
                return self._whole("response.created") + self._whole("response.in_progress")
            case BlockStarted():
                return self._start(event.index, event.block)
            case BlockDelta():
                return self._grow(self._blocks[event.index], event)
            case BlockEnded():
                return self._end(self._blocks[event.index])
            case Ended():
                return self._close(event)

    def error(self, error: AetherError) -> bytes:
        """The `error` event in the form of the reference and, as OpenAI sends it, with `error` in it, which is what makes
        its clients raise; then the failed response."""
        told = {"code": error.code, "message": error.message, "param": error.details.get("param")}
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        sent = self._event("error", **told, error={"type": kind, **told})
        if self.response is None:
            return sent
        code = "server_error"
        if isinstance(error, RateLimitedError):
            code = "rate_limit_exceeded"
        elif isinstance(error, ContentFilteredError):
            code = "invalid_prompt"
        self.response |= {
            "status": "failed",
            "error": {"code": code, "message": error.message},
            "output": [item.item for item in self._items if item.is_done],
        }
        return sent + self._whole("response.failed")

    # --- blocks ---------------------------------------------------------------------------------------------

    def _start(self, index: int, block: Block) -> bytes:
        if self.response is None:
            raise ProviderError("The stream has a block before its start.")
        if isinstance(block, Text | Refusal):
            return self._start_part(index, block)
        self._message = None
        sent = self._finish_items()
        if isinstance(block, ToolCall) and block.signature:
            signed = encode_signature(block, item_id("rs", self.response["id"], len(self._items)))
            sent += self._add(signed)[1] + self._finish_items()
        first = block
        if isinstance(block, ToolCall):
            first = replace(block, arguments="")
        elif isinstance(block, Thinking):
            first = replace(block, text="")
        item = encode_item(first, self.response["id"], len(self._items))
        if isinstance(block, ToolCall):
            item["status"] = "in_progress"
        elif isinstance(block, Thinking):
            item.pop("encrypted_content")
        owner, added = self._add(item)
        owner.open_blocks = 1
        opened = self._blocks[index] = _Open(block, owner)
        sent += added
        if isinstance(block, ToolCall) and block.arguments:
            sent += self._grow(opened, BlockDelta(index, arguments=block.arguments))
        elif isinstance(block, Thinking) and block.text:
            sent += self._grow(opened, BlockDelta(index, thinking=block.text))
        return sent

    def _start_part(self, index: int, block: Text | Refusal) -> bytes:
        sent = b""
        if self._message is None:
            sent = self._finish_items()
            self._message, added = self._add(message_item(self._id, len(self._items)))
            sent += added
        owner = self._message
        owner.open_blocks += 1
        is_text = isinstance(block, Text)
        part = text_part("") if is_text else {"type": "refusal", "refusal": ""}
        opened = self._blocks[index] = _Open(block, owner, len(owner.item["content"]), part)
        owner.item["content"].append(part)
        sent += self._event("response.content_part.added", **opened.where, part=part)
        if block.text:
            sent += self._grow(
                opened, BlockDelta(index, text=block.text) if is_text else BlockDelta(index, refusal=block.text)
            )
        if isinstance(block, Text):
            for citation in block.citations:
                sent += self._grow(opened, BlockDelta(index, citation=citation))
        return sent

    def _grow(self, opened: _Open, delta: BlockDelta) -> bytes:
        if delta.text is not None:
            opened.pieces.append(delta.text)
            return self._event("response.output_text.delta", **opened.where, delta=delta.text, logprobs=[])
        if delta.arguments is not None:
            opened.pieces.append(delta.arguments)
            return self._event("response.function_call_arguments.delta", **opened.owner.where, delta=delta.arguments)
        if delta.thinking is not None:
            return self._think(opened, delta.thinking)
        if delta.refusal is not None:
            opened.pieces.append(delta.refusal)
            return self._event("response.refusal.delta", **opened.where, delta=delta.refusal)
        if delta.citation is not None:
            opened.citations.append(delta.citation)
            return self._event(
                "response.output_text.annotation.added",
                **opened.where,
                annotation_index=len(opened.citations) - 1,
                annotation=annotation_of(delta.citation, len(opened.text)),
            )
        if delta.signature is not None:
            opened.signature.append(delta.signature)
        return b""

    def _think(self, opened: _Open, text: str) -> bytes:
        where = {**opened.owner.where, "summary_index": 0}
        sent = b""
        if not opened.pieces:
            part = {"type": "summary_text", "text": ""}
            sent = self._event("response.reasoning_summary_part.added", **where, part=part)
        opened.pieces.append(text)
        return sent + self._event("response.reasoning_summary_text.delta", **where, delta=text)

    def _end(self, opened: _Open) -> bytes:
        """A part of a message ends where its block does; so do the words of a thought."""
        if opened.is_ended:
            return b""
        opened.is_ended = True
        opened.owner.open_blocks -= 1
        where, text, item = opened.where, opened.text, opened.owner.item
        match opened.block:
            case Text():
                opened.part |= text_part(text, opened.citations)
                sent = self._event("response.output_text.done", **where, text=text, logprobs=[])
                return sent + self._event("response.content_part.done", **where, part=opened.part)
            case Refusal():
                opened.part["refusal"] = text
                sent = self._event("response.refusal.done", **where, refusal=text)
                return sent + self._event("response.content_part.done", **where, part=opened.part)
            case ToolCall():
                item["arguments"] = text
            case Thinking() as block:
                signature = "".join(opened.signature) or block.signature
                item |= encode_thinking(replace(block, text=text, signature=signature), item["id"])
                if text:
                    where = {**opened.owner.where, "summary_index": 0}
                    part = item["summary"][0]
                    sent = self._event("response.reasoning_summary_text.done", **where, text=text)
                    return sent + self._event("response.reasoning_summary_part.done", **where, part=part)
        return b""

    # --- items ----------------------------------------------------------------------------------------------

    @property
    def _id(self) -> str:
        return str((self.response or {}).get("id", ""))

    def _add(self, item: dict[str, Any]) -> tuple[_Item, bytes]:
        added = _Item(item, len(self._items))
        self._items.append(added)
        return added, self._event("response.output_item.added", output_index=added.output_index, item=item)

    def _finish_items(self, last_status: str = "completed") -> bytes:
        """End the items nothing is written to any more."""
        sent = b""
        for one in self._items:
            if one.is_done or one.open_blocks:
                continue
            one.is_done = True
            if one.item.get("status") == "in_progress":
                one.item["status"] = last_status if one is self._items[-1] else "completed"
            if one.item["type"] == "function_call":
                sent += self._event(
                    "response.function_call_arguments.done",
                    **one.where,
                    name=one.item["name"],
                    arguments=one.item["arguments"],
                )
            sent += self._event("response.output_item.done", output_index=one.output_index, item=one.item)
        return sent

    def _close(self, event: Ended) -> bytes:
        if self.response is None:
            raise ProviderError("The stream has an end before its start.")
        sent = b"".join(self._end(opened) for opened in self._blocks.values())
        self._finish(self.response, event.stop, [opened.block for opened in self._blocks.values()])
        sent += self._finish_items(self.response["status"])
        self.response |= {"output": [one.item for one in self._items], "usage": encode_usage(event.usage)}
        return sent + self._whole(f"response.{self.response['status']}")

    # --- events ---------------------------------------------------------------------------------------------

    def _whole(self, kind: str) -> bytes:
        return self._event(kind, response=self.response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = orjson.dumps({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), body)
