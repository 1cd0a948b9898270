"""Reads recorded streams of any dialect whose events have no names, and tells a whole answer as a stream."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from serve_app.router.dialects.base import StreamDecoder
from serve_app.router.dialects.canonical import (
    Answer,
    Block,
    BlockDelta,
    BlockEnded,
    BlockStarted,
    Ended,
    Refusal,
    Started,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)

STREAMS = Path(__file__).parents[3] / "fixtures" / "streams"


def names(dialect: str) -> list[str]:
    return sorted(path.stem for path in (STREAMS / dialect).glob("*.sse"))


def recorded(dialect: str, name: str) -> bytes:
    return (STREAMS / dialect / f"{name}.sse").read_bytes()


def data_of(stream: bytes) -> Iterator[dict[str, Any]]:
    """The data of each event of a whole stream; comments and `[DONE]` are passed over."""
    assert stream.endswith(b"\n\n")
    for line in stream.splitlines():
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            yield orjson.loads(line.removeprefix(b"data: "))


def decoded(decoder: StreamDecoder, stream: bytes) -> list[StreamEvent]:
    events = [event for data in data_of(stream) for event in decoder.decode(None, data)]
    return [*events, *decoder.end()]


def told(answer: Answer) -> Iterator[StreamEvent]:
    yield Started(answer.id, answer.model, created=answer.created)
    for index, block in enumerate(answer.blocks):
        start, deltas = _begun(block)
        yield BlockStarted(index, start)
        for delta in deltas:
            yield BlockDelta(index, **delta)
        yield BlockEnded(index)
    yield Ended(answer.stop, answer.usage, answer.stop_sequence)


def _begun(block: Block) -> tuple[Block, list[dict[str, Any]]]:
    match block:
        case Text(text, citations):
            halves = [{"text": half} for half in _halves(text)]
            return replace(block, text="", citations=()), [*halves, *({"citation": one} for one in citations)]
        case Refusal(text):
            return Refusal(""), [{"refusal": half} for half in _halves(text)]
        case Thinking(text, signature, None):
            signed = [{"signature": signature}] if signature else []
            return replace(block, text="", signature=None), [*({"thinking": half} for half in _halves(text)), *signed]
        case ToolCall(arguments=arguments):
            return replace(block, arguments=""), [{"arguments": half} for half in _halves(arguments)]
        case _:
            return block, []


def _halves(text: str) -> list[str]:
    return [half for half in (text[: len(text) // 2], text[len(text) // 2 :]) if half]
