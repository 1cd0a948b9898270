"""A provider's Responses stream as canonical events, and what its errors and endings mean."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from serve_app.core.errors import (
    AetherError,
    ContentFilteredError,
    ContextLengthError,
    OverloadedError,
    ProviderError,
    ProviderRefusedError,
    RateLimitedError,
)
from serve_app.router.dialects.canonical import (
    Block,
    BlockDelta,
    BlockEnded,
    BlockStarted,
    Dialect,
    Ended,
    Refusal,
    Started,
    Stop,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from serve_app.router.dialects.openai_responses_wire import Raw, decode_items, decode_usage

_ERRORS: dict[str, type[AetherError]] = {
    "rate_limit_exceeded": RateLimitedError,
    "context_length_exceeded": ContextLengthError,
    "server_is_overloaded": OverloadedError,
    "slow_down": OverloadedError,
    "content_filter": ContentFilteredError,
    "invalid_prompt": ContentFilteredError,
    "bio_policy": ContentFilteredError,
    "misalignment_policy_violation": ContentFilteredError,
    "image_content_policy_violation": ContentFilteredError,
    "insufficient_quota": ProviderRefusedError,
    "data_residency_mismatch": ProviderRefusedError,
    "invalid_request_error": ProviderRefusedError,
}
_EMPTY = Text("", citation_dialect=Dialect.OPENAI_RESPONSES)
"""A text says at its start whose citations may come."""
_STOPS = {"max_output_tokens": Stop.LENGTH, "content_filter": Stop.CONTENT_FILTER}


def error_of(raw: Raw) -> AetherError:
    """The error a failed response or an `error` event tells of."""
    code = raw.get("code") or raw.get("type") or "server_error"
    kind = _ERRORS.get(code)
    if kind is None:
        # The other codes that name an image are about one the caller sent.
        kind = ProviderRefusedError if "image" in code else ProviderError
    return kind(raw.get("message") or "The provider failed while answering.", provider_code=code)


def stop_of(response: Raw, blocks: Iterable[Block]) -> Stop:
    if response.get("status") == "incomplete":
        return _STOPS.get((response.get("incomplete_details") or {}).get("reason") or "", Stop.PAUSE)
    kinds = {type(block) for block in blocks}
    if ToolCall in kinds:
        return Stop.TOOL_CALLS
    return Stop.REFUSAL if Refusal in kinds else Stop.END


@contextmanager
def speaks() -> Iterator[None]:
    """What does not have the dialect's shape is the provider's failure."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as exc:
        raise ProviderError("The provider's answer is not in the Responses dialect.") from exc


_Handler = Callable[["ResponsesStreamDecoder", Raw], Iterable[StreamEvent]]


class ResponsesStreamDecoder:
    """One stream. A block is a part of a message, or an item that is not a message; only the latter have no part."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._open: dict[tuple[int, int | None], int] = {}
        self._written: set[int] = set()

    def decode(self, event: str | None, data: Raw) -> Iterable[StreamEvent]:
        """The progress of hosted tools is passed over: their items come whole when they are done."""
        with speaks():
            handler = self._HANDLERS.get(data.get("type") or event or "")
            return handler(self, data) if handler else ()

    def end(self) -> Iterable[StreamEvent]:
        return ()

    # --- items ----------------------------------------------------------------------------------------------

    def _created(self, data: Raw) -> Iterable[StreamEvent]:
        response = data["response"]
        return (Started(response["id"], response["model"], created=int(response.get("created_at") or 0)),)

    def _item_added(self, data: Raw) -> Iterable[StreamEvent]:
        item, key = data["item"], (data["output_index"], None)
        match item["type"]:
            case "function_call":
                return self._start(key, ToolCall(item["call_id"], item["name"], "", item_id=item.get("id")))
            case "reasoning":
                return self._start(key, Thinking(item_id=item.get("id"), dialect=Dialect.OPENAI_RESPONSES))
            case _:
                return ()

    def _item_done(self, data: Raw) -> Iterable[StreamEvent]:
        item, key = data["item"], (data["output_index"], None)
        if item["type"] == "message":
            return ()
        index = self._open.get(key)
        if index is None:
            return [event for block in decode_items([item]) for event in (*self._start(key, block), *self._finish(key))]
        events: list[StreamEvent] = []
        if item["type"] == "function_call" and item["arguments"] and index not in self._written:
            events.append(BlockDelta(index, arguments=item["arguments"]))
        if item["type"] == "reasoning" and item.get("encrypted_content"):
            events.append(BlockDelta(index, signature=item["encrypted_content"]))
        return (*events, *self._finish(key))

    # --- parts ----------------------------------------------------------------------------------------------

    def _part_added(self, data: Raw) -> Iterable[StreamEvent]:
        match data["part"]["type"]:
            case "output_text":
                return self._start(_part_of(data), _EMPTY)
            case "refusal":
                return self._start(_part_of(data), Refusal(""))
            case _:
                return ()

    def _text(self, data: Raw) -> Iterable[StreamEvent]:
        return self._grow(_part_of(data), _EMPTY, text=data["delta"])

    def _refusal(self, data: Raw) -> Iterable[StreamEvent]:
        return self._grow(_part_of(data), Refusal(""), refusal=data["delta"])

    def _arguments(self, data: Raw) -> Iterable[StreamEvent]:
        return self._grow((data["output_index"], None), None, arguments=data["delta"])

    def _thought(self, data: Raw) -> Iterable[StreamEvent]:
        empty = Thinking(item_id=data.get("item_id"), dialect=Dialect.OPENAI_RESPONSES)
        return self._grow((data["output_index"], None), empty, thinking=data["delta"])

    def _summary_added(self, data: Raw) -> Iterable[StreamEvent]:
        """Parts of a summary after the first are paragraphs of one thought."""
        return self._thought({**data, "delta": "\n\n"}) if data.get("summary_index") else ()

    def _annotation(self, data: Raw) -> Iterable[StreamEvent]:
        key = _part_of(data)
        return self._grow(key, _EMPTY, citation=data["annotation"]) if data.get("annotation") else ()

    def _text_done(self, data: Raw) -> Iterable[StreamEvent]:
        """Some servers give a short text whole, without a delta."""
        key = _part_of(data)
        is_new = self._open.get(key) not in self._written
        return self._grow(key, _EMPTY, text=data["text"]) if is_new and data["text"] else ()

    def _part_done(self, data: Raw) -> Iterable[StreamEvent]:
        return self._finish(_part_of(data))

    # --- endings --------------------------------------------------------------------------------------------

    def _ended(self, data: Raw) -> Iterable[StreamEvent]:
        response = data["response"]
        left = [event for key in list(self._open) for event in self._finish(key)]
        return (*left, Ended(stop_of(response, self._blocks), decode_usage(response.get("usage"))))

    def _failed(self, data: Raw) -> Iterable[StreamEvent]:
        raise error_of(data["response"].get("error") or {})

    def _error(self, data: Raw) -> Iterable[StreamEvent]:
        """Flat in the reference, inside `error` on the wire."""
        told = data.get("error")
        raise error_of(told if isinstance(told, Mapping) else {**data, "type": None})

    # --- blocks ---------------------------------------------------------------------------------------------

    def _start(self, key: tuple[int, int | None], block: Block) -> Iterable[StreamEvent]:
        if key in self._open:
            return ()
        index = self._open[key] = len(self._blocks)
        self._blocks.append(block)
        return (BlockStarted(index, block),)

    def _grow(self, key: tuple[int, int | None], empty: Block | None, **delta: Any) -> Iterable[StreamEvent]:
        """More of a block, which begins with `empty` where the provider did not announce it."""
        started = self._start(key, empty) if empty is not None else ()
        index = self._open[key]
        if "citation" not in delta:
            self._written.add(index)
        return (*started, BlockDelta(index, **delta))

    def _finish(self, key: tuple[int, int | None]) -> Iterable[StreamEvent]:
        index = self._open.pop(key, None)
        return () if index is None else (BlockEnded(index),)

    _HANDLERS: ClassVar[dict[str, _Handler]] = {
        "response.created": _created,
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.content_part.added": _part_added,
        "response.content_part.done": _part_done,
        "response.output_text.delta": _text,
        "response.output_text.done": _text_done,
        "response.output_text.annotation.added": _annotation,
        "response.refusal.delta": _refusal,
        "response.function_call_arguments.delta": _arguments,
        "response.reasoning_summary_part.added": _summary_added,
        "response.reasoning_summary_text.delta": _thought,
        "response.reasoning_text.delta": _thought,
        "response.completed": _ended,
        "response.incomplete": _ended,
        "response.failed": _failed,
        "error": _error,
    }


def _part_of(data: Raw) -> tuple[int, int | None]:
    return data["output_index"], data["content_index"]
