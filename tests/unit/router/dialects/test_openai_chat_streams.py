"""Streams of providers that speak Chat Completions, and the streams we write in it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import AetherError, ContentFilteredError, ContextLengthError, EngineError, ProviderError
from serve_app.router.dialects.canonical import (
    Answer,
    Block,
    BlockDelta,
    BlockStarted,
    Dialect,
    Ended,
    Media,
    Opaque,
    Refusal,
    Started,
    Stop,
    Text,
    Thinking,
    ToolCall,
)
from serve_app.router.dialects.openai_chat_decoder import ChatStreamDecoder
from serve_app.router.dialects.openai_chat_stream import ChatStreamEncoder
from tests.unit.router.dialects.anthropic_streams import assembled
from tests.unit.router.dialects.chat_streams import data_of, decoded, names, recorded, told

CHAT = Dialect.OPENAI_CHAT
CITED = {
    "type": "url_citation",
    "url_citation": {"end_index": 47, "start_index": 16, "title": "Ray news", "url": "https://ray.io/news"},
}
WHOLE: dict[str, tuple[tuple[Block, ...], Stop, Usage]] = {
    "text": ((Text("Hello! Grüße 👋"),), Stop.END, Usage(input=2006, output=10, cached=1920)),
    "length": ((Text("Once upon a"),), Stop.LENGTH, Usage()),
    "parallel_tools": (
        (
            ToolCall("call_DdmO9pD3xa9XTPNJ32zg2hcA", "get_weather", '{"location":"Paris, France"}'),
            ToolCall("call_wRGmF5Yk2JTo0h2rZ6bF7x1Q", "get_weather", '{"location":"Bogotá, Colombia"}'),
        ),
        Stop.TOOL_CALLS,
        Usage(),
    ),
    "refusal": ((Refusal("I'm sorry, I cannot assist with that request."),), Stop.REFUSAL, Usage()),
    "content_filter": ((Text("To build"),), Stop.CONTENT_FILTER, Usage()),
    "logprobs": ((Text("Hi"),), Stop.END, Usage()),
    "azure": ((Text("Hi"),), Stop.END, Usage()),
    "citations": (
        (Text("Ray 2.60 is out ([ray.io](https://ray.io/news)).", (CITED,), CHAT),),
        Stop.END,
        Usage(),
    ),
    "deepseek_reasoning": (
        (Thinking("9.11 has fewer tenths.", dialect=CHAT), Text("9.8 is greater.")),
        Stop.END,
        Usage(input=15, output=42, cached=8, reasoning=30),
    ),
    "openrouter_reasoning": (
        (
            Thinking("Two and two.", "EqQBCgIYAhIM", dialect=Dialect.ANTHROPIC),
            Thinking(encrypted="EmwKAhgBEgy3", dialect=Dialect.ANTHROPIC),
            Text("Four."),
        ),
        Stop.END,
        Usage(input=20, output=12, reasoning=7),
    ),
    "mistral_thinking": (
        (
            Thinking("Okay, so.", dialect=CHAT),
            Text("Done."),
            ToolCall("D681PevKs", "look", '{"at": "sky"}'),
            ToolCall("aB3dEfGh1", "look", '{"at": "sea"}'),
        ),
        Stop.TOOL_CALLS,
        Usage(input=9, output=30),
    ),
    "groq": ((Thinking("Say hi.", dialect=CHAT), Text("Hi")), Stop.END, Usage(input=18, output=5)),
    "google_compatible": (
        (
            ToolCall("function-call-1", "get_weather", '{"city":"Paris"}', signature="CvcBAVSoXO4="),
            ToolCall("function-call-2", "get_weather", '{"city":"London"}'),
        ),
        Stop.TOOL_CALLS,
        Usage(input=60, output=40),
    ),
}
BROKEN = {"error", "openrouter_error", "cut_off"}


def test_every_recorded_stream_is_tested() -> None:
    assert set(names(CHAT)) == WHOLE.keys() | BROKEN


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_recorded_stream_is_read_whole(name: str) -> None:
    answer = assembled(decoded(ChatStreamDecoder(), recorded(CHAT, name)))
    blocks, stop, usage = WHOLE[name]
    assert (answer.blocks, answer.stop, answer.usage) == (blocks, stop, usage)
    assert answer.id
    assert answer.model


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_recorded_stream_is_written_as_it_means(name: str) -> None:
    events = decoded(ChatStreamDecoder(), recorded(CHAT, name))
    encoder = ChatStreamEncoder(wants_usage=True, now=7)
    written = b"".join(encoder.encode(event) for event in events)
    # Whose thought it was is told at its end, with the signature.
    assert _anonymous(assembled(decoded(ChatStreamDecoder(), written))) == _anonymous(assembled(events))


def _anonymous(answer: Answer) -> Answer:
    blocks = (replace(block, dialect=None) if isinstance(block, Thinking) else block for block in answer.blocks)
    return replace(answer, blocks=tuple(blocks))


@pytest.mark.parametrize(
    ("name", "words"), [("error", "The server had an error"), ("openrouter_error", "Provider disconnected")]
)
def test_an_error_in_mid_stream_is_told(name: str, words: str) -> None:
    with pytest.raises(ProviderError, match=words):
        decoded(ChatStreamDecoder(), recorded(CHAT, name))


def test_a_stream_that_is_cut_off_does_not_end() -> None:
    events = decoded(ChatStreamDecoder(), recorded(CHAT, "cut_off"))
    assert isinstance(events[0], Started)
    assert not any(isinstance(event, Ended) for event in events)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "m", "code": "context_length_exceeded"}, ContextLengthError),
        ({"message": "m", "code": "content_filter"}, ContentFilteredError),
        ({"message": "m", "code": 502}, ProviderError),
        ("overloaded", ProviderError),
    ],
)
def test_what_kind_of_error_it_is(error: Any, kind: type[AetherError]) -> None:
    with pytest.raises(kind):
        list(ChatStreamDecoder().decode(None, {"error": error}))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"choices": 5},
        {"choices": [5]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}]},
        {"choices": [{"delta": {"tool_calls": "x"}}]},
        {"choices": [{"finish_reason": "error"}]},
        {"choices": [], "usage": "many"},
    ],
)
def test_what_is_no_chunk(data: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        list(ChatStreamDecoder().decode(None, data))


def test_pieces_of_a_call_that_has_ended_are_never_given_to_another() -> None:
    decoder = ChatStreamDecoder()
    for index in (0, 1):
        call = {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": "{"}}
        list(decoder.decode(None, {"choices": [{"delta": {"tool_calls": [call]}}]}))
    with pytest.raises(ProviderError, match="mixed up"):
        list(
            decoder.decode(
                None, {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}}]}
            )
        )


def test_the_chunks_we_write() -> None:
    encoder = ChatStreamEncoder(wants_usage=True, now=7)
    answer = Answer(
        "a1", "m", (ToolCall("c", "f", "{}"), ToolCall("d", "g", "")), Stop.TOOL_CALLS, Usage(3, 2, 1, 0, 1)
    )
    written = b"".join(map(encoder.encode, told(answer)))
    assert written.endswith(b"data: [DONE]\n\n")
    chunks = list(data_of(written))
    assert {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("a1", "chat.completion.chunk", 7, "m")
    }
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    *said, ended, counted = chunks
    assert [chunk["choices"][0]["delta"] for chunk in said] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
        {"tool_calls": [{"index": 1, "id": "d", "type": "function", "function": {"name": "g", "arguments": ""}}]},
    ]
    assert all(chunk["usage"] is None and chunk["choices"][0]["finish_reason"] is None for chunk in said)
    assert (ended["choices"][0]["delta"], ended["choices"][0]["finish_reason"]) == ({}, "tool_calls")
    assert counted["choices"] == []
    assert counted["usage"]["total_tokens"] == 5
    assert counted["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}


def test_tokens_are_told_only_when_asked_for() -> None:
    encoder = ChatStreamEncoder(wants_usage=False, now=7)
    written = b"".join(map(encoder.encode, told(Answer("a1", "m", (Text("hi"),), Stop.END, Usage(1, 1)))))
    assert b"usage" not in written


def test_an_error_is_the_last_event() -> None:
    encoder = ChatStreamEncoder(wants_usage=False, now=7)
    encoder.encode(Started("a", "m"))
    (said,) = data_of(encoder.error(EngineError("broken")))
    assert said["error"] == {"message": "broken", "type": "server_error", "param": None, "code": "engine_failed"}


@pytest.mark.parametrize("stop", list(Stop))
def test_every_reason_to_stop_has_a_name(stop: Stop) -> None:
    encoder = ChatStreamEncoder(wants_usage=False, now=7)
    *_, last = data_of(b"".join(map(encoder.encode, told(Answer("a", "m", (Text("x"),), stop, Usage())))))
    assert last["choices"][0]["finish_reason"] in {"stop", "length", "tool_calls", "content_filter"}


def test_what_only_another_dialect_shows_is_noted_in_a_comment() -> None:
    encoder = ChatStreamEncoder(wants_usage=False, now=7)
    encoder.encode(Started("a", "m"))
    assert encoder.encode(BlockStarted(0, Opaque(Dialect.ANTHROPIC, {"type": "server_tool_use"}))) == (
        b": a block of type 'server_tool_use' is left out\n\n"
    )
    assert encoder.encode(BlockDelta(0, signature="s")) == b""


_words = st.text(min_size=1, max_size=20)
_dialects = st.sampled_from([Dialect.ANTHROPIC, Dialect.GEMINI, Dialect.OPENAI_RESPONSES, CHAT])
_blocks = st.lists(
    st.one_of(
        _words.map(Text),
        st.builds(Text, _words, st.just((CITED,)), st.just(CHAT)),
        _words.map(Refusal),
        st.builds(Media, st.just("image"), media_type=st.just("image/png"), data=st.just("AA==")),
    ),
    max_size=4,
)
_calls = st.lists(
    st.builds(ToolCall, _words, _words, st.text(max_size=20), signature=st.none() | _words),
    max_size=3,
    unique_by=lambda call: call.id,
)
_thoughts = st.lists(st.builds(Thinking, _words, _words, dialect=_dialects), max_size=2)
_usages = st.builds(Usage, *[st.integers(1, 10**6)] * 2, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


@given(_thoughts, _blocks, _calls, _usages)
def test_what_is_written_is_read_the_same(
    thoughts: list[Thinking], blocks: list[Block], calls: list[ToolCall], usage: Usage
) -> None:
    stop = Stop.TOOL_CALLS if calls else Stop.LENGTH
    # Neighbours of one kind are one block to a dialect that does not number its blocks.
    kept = [block for at, block in enumerate(blocks) if at == 0 or type(block) is not type(blocks[at - 1])]
    answer = Answer("a1", "m", (*thoughts, *kept, *calls), stop, usage)
    encoder = ChatStreamEncoder(wants_usage=True, now=7)
    written = b"".join(map(encoder.encode, told(answer)))
    read = assembled(decoded(ChatStreamDecoder(), written))
    words = "".join(thought.text for thought in read.blocks if isinstance(thought, Thinking))
    assert words == "".join(thought.text for thought in thoughts)
    assert [block for block in read.blocks if not isinstance(block, Thinking)] == [*kept, *calls]
    assert (read.stop, read.usage) == (answer.stop, answer.usage)


@given(_thoughts)
def test_thoughts_come_back_from_a_client_with_their_signatures(thoughts: list[Thinking]) -> None:
    encoder = ChatStreamEncoder(wants_usage=False, now=7)
    written = b"".join(map(encoder.encode, told(Answer("a", "m", tuple(thoughts), Stop.END, Usage()))))
    details = [
        detail for chunk in data_of(written) for detail in chunk["choices"][0]["delta"].get("reasoning_details", ())
    ]
    assert [(detail["index"], detail["text"], detail["signature"]) for detail in details] == [
        (index, thought.text, thought.signature) for index, thought in enumerate(thoughts)
    ]
