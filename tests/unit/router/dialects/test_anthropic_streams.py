"""Anthropic's streams: every recorded one is read, and written again it says the same."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import (
    AetherError,
    OverloadedError,
    ProviderError,
    ProviderRefusedError,
    RateLimitedError,
    TimedOutError,
)
from serve_app.router.dialects.anthropic import AnthropicClient
from serve_app.router.dialects.anthropic_stream import AnthropicStreamDecoder, AnthropicStreamEncoder
from serve_app.router.dialects.anthropic_wire import unwrap
from serve_app.router.dialects.canonical import (
    Answer,
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
    Stop,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)

from .anthropic_streams import NAMES, assembled, decoded, recorded

ENDING = sorted(set(NAMES) - {"overloaded"})


def answer_of(name: str) -> Answer:
    return assembled(decoded(recorded(name)))


def encoded(events: list[StreamEvent]) -> bytes:
    encoder = AnthropicStreamEncoder()
    return b"".join(encoder.encode(event) for event in events)


def test_every_recording_names_its_source() -> None:
    assert len(NAMES) >= 12
    assert all(recorded(name).startswith(b": source: https://platform.claude.com/docs/") for name in NAMES)


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("text", Stop.END),
        ("tool_use", Stop.TOOL_CALLS),
        ("max_tokens", Stop.LENGTH),
        ("refusal", Stop.REFUSAL),
        ("pause_turn", Stop.PAUSE),
        ("stop_sequence", Stop.STOP_SEQUENCE),
        ("context_window", Stop.CONTEXT_FULL),
    ],
)
def test_every_stop_reason_is_known(name: str, stop: Stop) -> None:
    assert answer_of(name).stop is stop


def test_a_stop_sequence_is_told() -> None:
    assert answer_of("stop_sequence").stop_sequence == "4"


def test_tool_calls_keep_ids_and_arguments() -> None:
    text, call = answer_of("tool_use").blocks
    assert text == Text("Okay, let's check the weather for San Francisco, CA:")
    assert call == ToolCall(
        "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather", '{"location": "San Francisco, CA", "unit": "fahrenheit"}'
    )


def test_a_tool_call_without_input_has_an_empty_object() -> None:
    _, weather, time = answer_of("parallel_tools").blocks
    assert weather == ToolCall("toolu_01A09q90qw90lq917835lq9", "get_weather", '{"location": "San Francisco, CA"}')
    assert time == ToolCall("toolu_01B09q90qw90lq917835lr0", "get_time", "{}")


def test_thoughts_keep_their_signature() -> None:
    thought, _ = answer_of("thinking").blocks
    assert isinstance(thought, Thinking)
    assert thought.text.endswith("so GCD(1071, 462) = 21.")
    assert thought.signature == "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"
    assert thought.dialect is Dialect.ANTHROPIC


def test_redacted_thoughts_are_kept() -> None:
    thought, _ = answer_of("redacted_thinking").blocks
    assert isinstance(thought, Thinking)
    assert (thought.encrypted or "").startswith("EmwKAhgBEgy3va3pzix")


def test_citations_are_kept() -> None:
    cited, rest = answer_of("citations").blocks
    assert isinstance(cited, Text)
    assert cited.citations[0]["cited_text"] == "The grass is green."
    assert cited.citation_dialect is Dialect.ANTHROPIC
    assert rest == Text(".")


def test_a_hosted_tool_comes_whole() -> None:
    _, call, result, _ = answer_of("web_search").blocks
    assert isinstance(call, Opaque)
    assert call.value["input"] == {"query": "weather NYC today"}
    assert isinstance(result, Opaque)
    assert result.value["content"][0]["url"].startswith("https://world-weather.info/")


def test_a_hosted_tool_that_was_cut_off_has_no_input() -> None:
    stream = recorded("pause_turn").replace(b'{\\"query\\": \\"x\\"}', b'{\\"query\\": \\"x')
    (call,) = assembled(decoded(stream)).blocks
    assert isinstance(call, Opaque)
    assert call.value["input"] == {}


def test_a_refusal_is_explained() -> None:
    assert answer_of("refusal").blocks[-1] == Refusal("The request could enable cyber harm.")


def test_tokens_are_totals_and_the_input_counts_what_was_cached() -> None:
    assert answer_of("parallel_tools").usage == Usage(input=472 + 1024, output=120, cached=1024)
    assert answer_of("thinking").usage == Usage(input=43, output=180, reasoning=140)
    assert answer_of("web_search").usage.input == 10682


def test_an_error_in_mid_stream_is_raised() -> None:
    with pytest.raises(OverloadedError, match="Overloaded"):
        decoded(recorded("overloaded"))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded_error", OverloadedError),
        ("rate_limit_error", RateLimitedError),
        ("timeout_error", TimedOutError),
        ("api_error", ProviderError),
        ("invalid_request_error", ProviderRefusedError),
    ],
)
def test_errors_are_told_apart(kind: str, error: type[AetherError]) -> None:
    with pytest.raises(error):
        AnthropicStreamDecoder().decode("error", {"type": "error", "error": {"type": kind, "message": "no"}})


@pytest.mark.parametrize(
    "data",
    [
        {"type": "message_start", "message": {}},
        {"type": "content_block_delta", "index": 3, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_start", "index": 0, "content_block": 7},
        {"type": "content_block_stop", "index": 9},
        {"type": "message_stop"},
        {"type": "error", "error": "x"},
    ],
)
def test_what_is_not_the_dialect_is_a_providers_error(data: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        AnthropicStreamDecoder().decode(None, data)


def test_kinds_of_events_yet_unknown_are_passed_over() -> None:
    assert list(AnthropicStreamDecoder().decode("novelty", {"type": "novelty"})) == []


def test_a_stream_that_is_cut_off_does_not_end() -> None:
    whole = recorded("text")
    events = decoded(whole[: whole.index(b"event: message_delta")])
    assert not any(isinstance(event, Ended) for event in events)


@pytest.mark.parametrize("name", ENDING)
def test_written_again_a_stream_says_the_same(name: str) -> None:
    events = decoded(recorded(name))
    again = assembled(decoded(encoded(events)))
    expected = assembled(events)
    if name == "refusal":  # what explains a refusal is plain text to Anthropic's clients
        assert again.blocks[-1] == Text("The request could enable cyber harm.")
        assert again.blocks[:-1] == expected.blocks[:-1]
    else:
        assert again == expected


@pytest.mark.parametrize("name", ENDING)
def test_whole_and_streamed_answers_agree(name: str) -> None:
    expected = answer_of(name)
    body = AnthropicClient().encode_answer(expected, _any_request())
    told = [block for block in body["content"] if block["type"] == "text"]
    assert "".join(block["text"] for block in told) == "".join(
        block.text for block in expected.blocks if isinstance(block, Text | Refusal)
    )


def _any_request() -> Any:
    return AnthropicClient().decode_request({"model": "m", "max_tokens": 1, "messages": []})


# --- another model's answers ----------------------------------------------------------------------------------


def returned(stream: bytes) -> tuple[Block, ...]:
    """What a client has read from a stream, as it brings it back with its next request."""
    return tuple(
        (isinstance(block, Thinking) and unwrap(block.text, block.signature)) or block
        for block in assembled(decoded(stream)).blocks
    )


def _stream(*middle: StreamEvent, stop: Stop = Stop.END) -> list[StreamEvent]:
    return [Started("chatcmpl-1", "gpt"), *middle, Ended(stop, Usage(10, 5, cached=4))]


def test_thoughts_of_another_model_come_back_with_their_proof() -> None:
    thought = Thinking("", encrypted="gAAAA", item_id="rs_1", dialect=Dialect.OPENAI_RESPONSES)
    stream = encoded(_stream(BlockStarted(0, thought), BlockDelta(0, thinking="Hm."), BlockEnded(0)))
    assert returned(stream) == (Thinking("Hm.", encrypted="gAAAA", item_id="rs_1", dialect=Dialect.OPENAI_RESPONSES),)


def test_a_signature_told_at_the_end_is_kept_as_well() -> None:
    events: list[StreamEvent] = [
        BlockStarted(0, Thinking(dialect=Dialect.GEMINI)),
        BlockDelta(0, thinking="Hm."),
        BlockDelta(0, signature="ab"),
        BlockDelta(0, signature="cd"),
        BlockEnded(0),
    ]
    (thought,) = returned(encoded(_stream(*events)))
    assert thought == Thinking("Hm.", signature="abcd", dialect=Dialect.GEMINI)


@pytest.mark.parametrize(
    "signing",
    [
        [BlockStarted(0, ToolCall("a", "f", "", signature="abcd"))],
        [BlockStarted(0, ToolCall("a", "f", "")), BlockDelta(0, signature="ab"), BlockDelta(0, signature="cd")],
    ],
)
def test_a_tool_calls_signature_comes_back(signing: list[StreamEvent]) -> None:
    events = [*signing, BlockDelta(0, arguments="{}"), BlockEnded(0)]
    blocks = assembled(decoded(encoded(_stream(*events)))).blocks
    content = [
        {"type": "thinking", "thinking": block.text, "signature": block.signature}
        if isinstance(block, Thinking)
        else {"type": "tool_use", "id": "a", "name": "f", "input": {}}
        for block in blocks
    ]
    raw = {"model": "m", "max_tokens": 1, "messages": [{"role": "assistant", "content": content}]}
    message = AnthropicClient().decode_request(raw).messages[0]
    assert message.blocks == (ToolCall("a", "f", "{}", signature="abcd"),)


def test_blocks_may_be_written_side_by_side() -> None:
    events: list[StreamEvent] = [
        BlockStarted(4, ToolCall("a", "f", "")),
        BlockStarted(7, ToolCall("b", "g", "")),
        BlockDelta(7, arguments="{}"),
        BlockDelta(4, arguments='{"x":1}'),
    ]
    answer = assembled(decoded(encoded(_stream(*events, stop=Stop.TOOL_CALLS))))
    assert answer.blocks == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}"))
    assert answer.usage == Usage(10, 5, cached=4)


def test_what_cannot_be_carried_is_reported_in_a_comment() -> None:
    picture: list[StreamEvent] = [BlockStarted(0, Media("image", "image/png", data="aa")), BlockEnded(0)]
    cited: list[StreamEvent] = [
        BlockStarted(1, Text("x", citation_dialect=Dialect.GEMINI)),
        BlockDelta(1, citation={"file": "f"}),
        BlockEnded(1),
    ]
    stream = encoded(_stream(*picture, *cited))
    assert b": Anthropic's dialect cannot carry it: a block of kind Media is left out\n\n" in stream
    assert b": Anthropic's dialect cannot carry it: a citation that names no page is left out\n\n" in stream
    assert assembled(decoded(stream)).blocks == (Text("x"),)


def test_a_page_another_model_cites_is_told() -> None:
    events: list[StreamEvent] = [
        BlockStarted(0, Text("", citation_dialect=Dialect.OPENAI_CHAT)),
        BlockDelta(0, text="abcd"),
        BlockDelta(0, citation={"url_citation": {"url": "https://x", "start_index": 1, "end_index": 3}}),
        BlockEnded(0),
    ]
    (text,) = assembled(decoded(encoded(_stream(*events)))).blocks
    assert isinstance(text, Text)
    assert text.citations[0]["url"] == "https://x"
    assert text.citations[0]["cited_text"] == "bc"


def test_a_tool_another_vendor_hosts_is_refused() -> None:
    block = Opaque(Dialect.OPENAI_RESPONSES, {"type": "web_search_call"})
    with pytest.raises(ProviderError, match="web_search_call"):
        AnthropicStreamEncoder().encode(BlockStarted(0, block))


def test_an_error_ends_a_stream_in_anthropics_way() -> None:
    assert AnthropicStreamEncoder().error(OverloadedError("Overloaded")) == (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    )


@given(
    st.lists(
        st.one_of(
            st.builds(Text, st.text(min_size=1)),
            st.builds(lambda text, sig: Thinking(text, sig, dialect=Dialect.ANTHROPIC), st.text(), st.text(min_size=1)),
            st.builds(lambda data: Thinking(encrypted=data, dialect=Dialect.ANTHROPIC), st.text(min_size=1)),
            st.builds(lambda call, text: ToolCall(call, "f", text), st.text(min_size=1), st.text(min_size=1)),
            st.builds(
                lambda text, sig, kept, item, dialect: Thinking(text, sig or None, kept or None, item or None, dialect),
                st.text(), st.text(), st.text(), st.text(),
                st.sampled_from([Dialect.GEMINI, Dialect.OPENAI_RESPONSES, Dialect.OPENAI_CHAT, None]),
            ),
        )
    )
)  # fmt: skip
def test_any_answer_survives_the_way_through_a_stream(blocks: list[Any]) -> None:
    events = [event for index, block in enumerate(blocks) for event in (BlockStarted(index, block), BlockEnded(index))]
    assert returned(encoded(_stream(*events))) == tuple(blocks)
