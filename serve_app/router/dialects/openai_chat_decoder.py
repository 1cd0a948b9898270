"""Streams of providers that speak Chat Completions, turned into canonical events."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import AetherError, ContentFilteredError, ContextLengthError, ProviderError
from serve_app.router.dialects.canonical import (
    BlockDelta,
    Dialect,
    Ended,
    Refusal,
    Started,
    StreamEvent,
    Text,
    Thinking,
)
from serve_app.router.dialects.open_block import OneOpenBlock
from serve_app.router.dialects.openai_chat_message import (
    call_of,
    image_of,
    sequence_of,
    signature_of,
    stop_of,
    thought_of,
    usage_of,
)

Object = Mapping[str, Any]

_KINDS: Mapping[str, type[AetherError]] = {
    "context_length_exceeded": ContextLengthError,
    "content_filter": ContentFilteredError,
    "content_policy_violation": ContentFilteredError,
}


def reported(error: object) -> AetherError:
    """What a provider reported in place of an answer or in the middle of one."""
    told: Object = error if isinstance(error, Mapping) else {"message": error}
    code = told.get("code") or told.get("type")
    kind = _KINDS.get(str(code), ProviderError)
    return kind(f"The provider reported an error: {str(told.get('message'))[:500]}", provider_code=code)


class ChatStreamDecoder(OneOpenBlock):
    """See `StreamDecoder`. Blocks come one after another, as every dialect wants them."""

    def __init__(self) -> None:
        super().__init__()
        self._is_started = False
        self._call: tuple[int, str | None] | None = None
        """Of the call that is open: the provider's index and id."""
        self._calls = 0
        self._finish: str | None = None
        self._sequence: str | None = None
        self._has_refusal = False
        self._usage = Usage()

    def decode(self, event: str | None, data: Object) -> Iterable[StreamEvent]:  # noqa: ARG002 - the port's form
        """See `StreamDecoder.decode`."""
        if error := data.get("error"):
            raise reported(error)
        try:
            yield from self._decode(data)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as exc:
            raise ProviderError("The provider's stream is not one of chat completion chunks.") from exc

    def end(self) -> Iterable[StreamEvent]:
        """See `StreamDecoder.end`. Tokens may be told after the reason to stop, so the end waits for the very end."""
        if self._finish is None:
            return
        yield from self._close()
        stop = stop_of(self._finish, self._sequence, has_calls=self._calls > 0, has_refusal=self._has_refusal)
        yield Ended(stop, self._usage, self._sequence)

    def _decode(self, data: Object) -> Iterator[StreamEvent]:
        # Groq tells tokens in a field of its own.
        if usage := data.get("usage") or (data.get("x_groq") or {}).get("usage"):
            self._usage = usage_of(usage)
        choices = data["choices"]
        if not choices:
            return  # tokens only, or Azure's word on the prompt
        if not self._is_started:
            self._is_started = True
            yield Started(data.get("id") or "", data.get("model") or "", created=int(data.get("created") or 0))
        choice = choices[0]
        if error := choice.get("error"):
            raise reported(error)
        yield from self._delta(choice.get("delta") or {})
        finish = choice.get("finish_reason")
        if finish and isinstance(finish, str):
            if finish == "error":
                raise ProviderError("The provider stopped with an error.")
            self._finish, self._sequence = finish, sequence_of(choice)

    def _delta(self, delta: Object) -> Iterator[StreamEvent]:
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            yield from self._open_as(Thinking(dialect=_dialect_of(delta)))
            yield BlockDelta(self._index, thinking=thought)
        for detail in delta.get("reasoning_details") or ():
            yield from self._detail(thought_of(detail))
        yield from self._content(delta.get("content"))
        if refusal := delta.get("refusal"):
            self._has_refusal = True
            yield from self._open_as(Refusal(""))
            yield BlockDelta(self._index, refusal=refusal)
        for annotation in delta.get("annotations") or ():
            yield from self._open_as(Text("", citation_dialect=Dialect.OPENAI_CHAT))
            yield BlockDelta(self._index, citation=annotation)
        for image in delta.get("images") or ():
            yield from self._start(image_of(image["image_url"]))
            yield from self._close()
        for call in delta.get("tool_calls") or ():
            yield from self._tool_call(call)

    def _content(self, content: str | list[Object] | None) -> Iterator[StreamEvent]:
        pieces: list[Object] = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        for piece in pieces:
            if piece["type"] == "thinking":  # Mistral's
                words = "".join(word.get("text", "") for word in piece["thinking"])
                yield from self._open_as(Thinking(dialect=Dialect.OPENAI_CHAT))
                yield BlockDelta(self._index, thinking=words)
            elif piece.get("text"):
                yield from self._open_as(Text("", citation_dialect=Dialect.OPENAI_CHAT))
                yield BlockDelta(self._index, text=piece["text"])

    def _detail(self, thought: Thinking) -> Iterator[StreamEvent]:
        """OpenRouter repeats the words of `reasoning` here, so only what else a detail holds is taken."""
        if thought.encrypted:
            yield from self._start(thought)
            yield from self._close()
        elif thought.signature:
            yield from self._open_as(Thinking(dialect=thought.dialect))
            yield BlockDelta(self._index, signature=thought.signature)

    def _tool_call(self, call: Object) -> Iterator[StreamEvent]:
        index, told_id = call.get("index", self._call[0] if self._call else 0), call.get("id")
        # Google's compatible endpoint numbers every parallel call 0; they differ by their ids.
        is_same = self._call is not None and self._call[0] == index and told_id in {None, "", self._call[1]}
        function = call.get("function") or {}
        if not is_same:
            if not function.get("name"):
                raise ProviderError("The provider mixed up the pieces of its tool calls.")
            started = call_of({**call, "function": {**function, "arguments": ""}}, self._calls)
            yield from self._start(started)
            self._call = (index, told_id)
            self._calls += 1
        elif signature := signature_of(call):
            yield BlockDelta(self._index, signature=signature)
        if arguments := function.get("arguments"):
            yield BlockDelta(self._index, arguments=arguments)

    def _close(self) -> Iterator[StreamEvent]:
        yield from super()._close()
        self._call = None


def _dialect_of(delta: Object) -> Dialect | None:
    details = delta.get("reasoning_details") or ()
    return thought_of(details[0]).dialect if details else Dialect.OPENAI_CHAT
