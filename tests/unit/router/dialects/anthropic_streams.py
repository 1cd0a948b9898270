"""Reads the recorded Anthropic streams, and puts a canonical stream together again."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from serve_app.router.dialects.anthropic_stream import AnthropicStreamDecoder
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

FOLDER = Path(__file__).parents[3] / "fixtures" / "streams" / "anthropic"
NAMES = sorted(path.stem for path in FOLDER.glob("*.sse"))


def parse(stream: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events of a stream that is whole; comments are passed over."""
    for part in stream.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in part.split("\n") if line and not line.startswith(":"))
        if fields:
            yield fields["event"], orjson.loads(fields["data"])


def recorded(name: str) -> bytes:
    return (FOLDER / f"{name}.sse").read_bytes()


def decoded(stream: bytes) -> list[StreamEvent]:
    decoder = AnthropicStreamDecoder()
    events = [event for name, data in parse(stream) for event in decoder.decode(name, data)]
    return [*events, *decoder.end()]


def assembled(events: Iterable[StreamEvent]) -> Answer:
    """The answer a stream tells, checking that each block is begun before it goes on and is ended."""
    started: Started | None = None
    blocks: dict[int, Block] = {}
    is_open: set[int] = set()
    for event in events:
        match event:
            case Started():
                started = event
            case BlockStarted(index, block):
                assert index not in blocks
                blocks[index] = block
                is_open.add(index)
            case BlockDelta(index):
                assert index in is_open
                blocks[index] = _grown(blocks[index], event)
            case BlockEnded(index):
                is_open.remove(index)
            case Ended():
                assert started
                assert not is_open
                whole = tuple(_without_hint(blocks[index]) for index in sorted(blocks))
                return Answer(started.id, started.model, whole, event.stop, event.usage, event.stop_sequence)
    raise AssertionError("the stream was cut off")


def _grown(block: Block, delta: BlockDelta) -> Block:
    match block:
        case Text() if delta.citation is not None:
            return replace(block, citations=(*block.citations, delta.citation))
        case Text():
            return replace(block, text=block.text + (delta.text or ""))
        case Refusal():
            return replace(block, text=block.text + (delta.refusal or ""))
        case ToolCall():
            return replace(block, arguments=block.arguments + (delta.arguments or ""))
        case Thinking() if delta.signature is not None:
            return replace(block, signature=(block.signature or "") + delta.signature)
        case Thinking():
            return replace(block, text=block.text + (delta.thinking or ""))
        case _:
            raise AssertionError(f"{block!r} does not grow")


def _without_hint(block: Block) -> Block:
    """A text says whose citations may come; when none came there is nothing of anybody's in it."""
    if isinstance(block, Text) and not block.citations:
        return replace(block, citation_dialect=None)
    return block
