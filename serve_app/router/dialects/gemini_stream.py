"""Gemini's streams (`streamGenerateContent?alt=sse`), turned into canonical events."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import ProviderError
from serve_app.router.dialects.canonical import (
    Block,
    BlockDelta,
    Dialect,
    Ended,
    Started,
    Stop,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from serve_app.router.dialects.gemini_answer import AnswerReader, citations_of, refuse_blocked, stop_of, usage_of
from serve_app.router.dialects.open_block import OneOpenBlock

Object = Mapping[str, Any]


class GeminiStreamDecoder(OneOpenBlock):
    """See `StreamDecoder`. Each chunk is an answer of its own; texts that follow one another are one block."""

    def __init__(self) -> None:
        super().__init__()
        self._reader: AnswerReader | None = None
        self._stop: Stop | None = None
        self._usage = Usage()

    def decode(self, event: str | None, data: Object) -> Iterable[StreamEvent]:  # noqa: ARG002 - the port's form
        """See `StreamDecoder.decode`."""
        try:
            refuse_blocked(data)
            yield from self._decode(data)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as exc:
            raise ProviderError("The provider's stream is not one of generateContent.") from exc

    def end(self) -> Iterable[StreamEvent]:
        """See `StreamDecoder.end`."""
        if self._stop is None:
            return
        yield from self._close()
        yield Ended(self._stop, self._usage)

    def _decode(self, data: Object) -> Iterator[StreamEvent]:
        if usage := data.get("usageMetadata"):
            self._usage = usage_of(usage)  # counted up: the last one is whole
        if self._reader is None:
            self._reader = AnswerReader(str(data.get("responseId") or ""))
            yield Started(self._reader.answer_id, str(data.get("modelVersion") or ""), self._usage)
        for candidate in (data.get("candidates") or ())[:1]:
            for part in (candidate.get("content") or {}).get("parts") or ():
                for block in self._reader.read(part):
                    yield from self._block(block)
            for citation in citations_of(candidate):
                yield from self._open_as(Text("", citation_dialect=Dialect.GEMINI))
                yield BlockDelta(self._index, citation=citation)
            if candidate.get("finishReason"):
                self._stop = stop_of(candidate, has_calls=self._reader.has_calls)

    def _block(self, block: Block) -> Iterator[StreamEvent]:
        match block:
            case Text(text):
                yield from self._open_as(Text("", citation_dialect=Dialect.GEMINI))
                yield BlockDelta(self._index, text=text)
            case Thinking(text, signature):
                # A signature is of all the words before it, and closes them.
                if text:
                    yield from self._open_as(Thinking(dialect=Dialect.GEMINI))
                    yield BlockDelta(self._index, thinking=text)
                else:
                    yield from self._start(Thinking(dialect=Dialect.GEMINI))
                if signature:
                    yield BlockDelta(self._index, signature=signature)
                    yield from self._close()
            case ToolCall(arguments=arguments):
                yield from self._start(replace(block, arguments=""))
                yield BlockDelta(self._index, arguments=arguments)
                yield from self._close()
            case _:
                yield from self._start(block)
                yield from self._close()
