"""Responses streams, in from a provider and out to a client, event by event."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import ContentFilteredError, ProviderError, ProviderRefusedError, RateLimitedError
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
    Message,
    Opaque,
    Refusal,
    Request,
    Started,
    Stop,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from serve_app.router.dialects.openai_responses import ResponsesClient
from serve_app.router.dialects.openai_responses_provider import ResponsesProvider
from tests.unit.router.dialects.anthropic_streams import assembled, parse

FOLDER = Path(__file__).parents[3] / "fixtures" / "streams" / "openai-responses"
NAMES = sorted(path.stem for path in FOLDER.glob("*.sse"))
BROKEN = {
    "failed": (ProviderError, "server_error"),
    "error": (RateLimitedError, "rate_limit_exceeded"),
    "error_nested": (ProviderRefusedError, "insufficient_quota"),
}
REQUEST = Request("m", (Message("user", (Text("Hi"),)),), stream=True, dialect=Dialect.OPENAI_RESPONSES)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def recorded(name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(parse((FOLDER / f"{name}.sse").read_bytes()))


def decoded(name: str) -> list[StreamEvent]:
    decoder = ResponsesProvider().stream_decoder()
    events = [event for kind, data in recorded(name) for event in decoder.decode(kind, data)]
    return [*events, *decoder.end()]


def encoded(*events: StreamEvent) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    encoder = ResponsesClient().stream_encoder(REQUEST)
    stream = b"".join(encoder.encode(event) for event in events)
    assert encoder.response is not None
    return list(parse(stream)), encoder.response


def streamed(answer: Answer, step: int = 3) -> list[StreamEvent]:
    """The answer as a provider would stream it, `step` characters at a time."""
    events: list[StreamEvent] = [Started(answer.id, answer.model)]
    for index, block in enumerate(answer.blocks):
        start, field, text = _hollow(block)
        events.append(BlockStarted(index, start))
        pieces: list[dict[str, Any]] = [{field: text[at : at + step]} for at in range(0, len(text), step)]
        events += [BlockDelta(index, **piece) for piece in pieces]
        if isinstance(block, Text):
            events += [BlockDelta(index, citation=citation) for citation in block.citations]
        if isinstance(block, Thinking) and block.signature:
            events.append(BlockDelta(index, signature=block.signature))
        events.append(BlockEnded(index))
    return [*events, Ended(answer.stop, answer.usage)]


def _hollow(block: Block) -> tuple[Block, str, str]:
    match block:
        case Text(text):
            return Text("", citation_dialect=block.citation_dialect), "text", text
        case Refusal(text):
            return Refusal(""), "refusal", text
        case ToolCall():
            return ToolCall(block.id, block.name, "", block.signature), "arguments", block.arguments
        case Thinking():
            return Thinking(encrypted=block.encrypted, dialect=block.dialect), "thinking", block.text
        case _:
            return block, "text", ""


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


# --- from a provider -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(BROKEN)))
def test_a_stream_tells_the_same_as_its_last_response(name: str) -> None:
    told = assembled(decoded(name))
    whole = ResponsesProvider().decode_answer(recorded(name)[-1][1]["response"])
    assert (told.id, told.model, told.blocks, told.stop, told.usage) == (
        whole.id,
        whole.model,
        whole.blocks,
        whole.stop,
        whole.usage,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_official_client_knows_every_recorded_event(name: str) -> None:
    kinds = {kind for kind, _ in recorded(name)}
    for kind, data in recorded(name):
        if "error" not in data:
            assert EVENT.validate_python(data).type == kind
    assert kinds


@pytest.mark.parametrize(("name", "error"), BROKEN.items())
def test_a_broken_stream_raises_what_the_provider_said(name: str, error: tuple[type[Exception], str]) -> None:
    with pytest.raises(error[0]) as raised:
        decoded(name)
    assert raised.value.details["provider_code"] == error[1]  # type: ignore[attr-defined]  # all are AetherErrors


def test_recorded_reasoning_and_citations_are_all_there() -> None:
    thought, text = assembled(decoded("reasoning")).blocks
    assert isinstance(thought, Thinking)
    assert thought.text == "**Estimating** the surface\n\n**Calculating** the mass"
    assert (thought.signature, thought.dialect) == ("gAAAAABozj-encrypted-reasoning==", Dialect.OPENAI_RESPONSES)
    assert text == Text("About 25 tonnes.")
    search, found = assembled(decoded("web_search")).blocks
    assert isinstance(search, Opaque)
    assert isinstance(found, Text)
    assert [citation["type"] for citation in found.citations] == ["url_citation", "file_citation"]


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("text", Stop.END),
        ("parallel_function_calls", Stop.TOOL_CALLS),
        ("refusal", Stop.REFUSAL),
        ("incomplete", Stop.LENGTH),
        ("content_filter", Stop.CONTENT_FILTER),
    ],
)
def test_why_it_stopped(name: str, stop: Stop) -> None:
    assert assembled(decoded(name)).stop is stop


def test_a_stream_cut_off_has_no_end() -> None:
    decoder = ResponsesProvider().stream_decoder()
    events = [event for kind, data in recorded("text")[:-1] for event in decoder.decode(kind, data)]
    assert not any(isinstance(event, Ended) for event in [*events, *decoder.end()])


def test_a_server_that_announces_nothing_is_understood() -> None:
    where = {"item_id": "x", "output_index": 0, "content_index": 0}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc"}
    response = {"id": "r", "model": "m", "status": "completed", "output": []}
    decoder = ResponsesProvider().stream_decoder()
    events: list[StreamEvent] = []
    for data in (
        {"type": "response.created", "response": response},
        {"type": "response.output_text.done", **where, "text": "Hi"},
        {"type": "response.output_item.done", "output_index": 1, "item": call},
        {"type": "response.completed", "response": response},
    ):
        events += decoder.decode(None, data)
    assert assembled(events).blocks == (Text("Hi"), ToolCall("c", "f", "{}", item_id="fc"))


@pytest.mark.parametrize("data", [{}, {"response": None}, {"response": {"id": "r"}}])
def test_what_is_not_the_dialect_is_the_providers_failure(data: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        list(ResponsesProvider().stream_decoder().decode("response.created", data))


# --- to a client ---------------------------------------------------------------------------------------------

BLOCKS: tuple[Block, ...] = (
    Thinking("Let me see.", "c2ln", dialect=Dialect.ANTHROPIC),
    Text("Here", ({"type": "web_search_result_location", "url": "https://a.org", "title": "A"},), Dialect.ANTHROPIC),
    Text(" and there."),
    ToolCall("call_1", "f", '{"a": 1}', signature="gemini-signature"),
    ToolCall("call_2", "g", "{}"),
    Media("image", "image/png", "aGk="),
    Text("Done."),
    Refusal("No more."),
)


def test_every_event_is_one_the_official_client_knows_and_numbered() -> None:
    events, response = encoded(*streamed(Answer("a", "m", BLOCKS, Stop.TOOL_CALLS, Usage(5, 7, 1, 2, 3))))
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    for kind, data in events:
        assert EVENT.validate_python(data).type == kind
    assert events[-1][1]["response"] == response
    parsed = Response.model_validate(response)
    assert parsed.output_text == "Here and there.Done."
    assert [item.type for item in parsed.output] == [
        *("reasoning", "message", "reasoning", "function_call", "function_call"),
        *("image_generation_call", "message"),
    ]
    assert {kind for kind, _ in events} >= {
        *("response.created", "response.in_progress", "response.output_item.added", "response.output_item.done"),
        *("response.content_part.added", "response.content_part.done", "response.output_text.annotation.added"),
        *("response.output_text.delta", "response.output_text.done"),
        *("response.refusal.delta", "response.refusal.done"),
        *("response.function_call_arguments.delta", "response.function_call_arguments.done"),
        *("response.reasoning_summary_part.added", "response.reasoning_summary_part.done"),
        *("response.reasoning_summary_text.delta", "response.reasoning_summary_text.done", "response.completed"),
    }


def test_every_item_is_added_before_it_grows_and_done_once() -> None:
    events, _ = encoded(*streamed(Answer("a", "m", BLOCKS, Stop.END, Usage())))
    for index in {data["output_index"] for _, data in events if "output_index" in data}:
        kinds = [kind for kind, data in events if data.get("output_index") == index]
        assert kinds[0] == "response.output_item.added"
        assert kinds[-1] == "response.output_item.done"
        assert kinds.count("response.output_item.done") == 1


BLOCK = st.one_of(
    st.text().map(Text),
    st.text().map(Refusal),
    st.builds(ToolCall, st.just("c"), st.just("f"), st.text()),
    st.builds(Thinking, st.text(), st.none() | st.just("s"), dialect=st.sampled_from(Dialect)),
    st.builds(Thinking, encrypted=st.just("e"), dialect=st.just(Dialect.ANTHROPIC)),
)


@given(st.lists(BLOCK, max_size=6), st.sampled_from(Stop), st.integers(1, 4))
def test_streamed_or_whole_the_response_is_the_same(blocks: list[Block], stop: Stop, step: int) -> None:
    answer = Answer("a", "m", tuple(blocks), stop, Usage(1, 2))
    events, response = encoded(*streamed(answer, step))
    whole = ResponsesClient().encode_answer(answer, REQUEST)
    assert without_ids(response["output"]) == without_ids(whole["output"])
    assert (response["status"], response["usage"]) == (whole["status"], whole["usage"])
    assert events[-1][0] == f"response.{response['status']}"


@given(st.lists(BLOCK, min_size=1, max_size=6))
def test_what_a_client_sends_back_is_what_the_model_said(blocks: list[Block]) -> None:
    whole = ResponsesClient().encode_answer(Answer("a", "m", tuple(blocks), Stop.END, Usage()), REQUEST)
    (message,) = ResponsesClient().decode_request({"model": "m", "input": whole["output"]}).messages
    assert [_plain(block) for block in message.blocks] == [_plain(block) for block in blocks]


def _plain(block: Block) -> Block:
    """Without the ids that items have and canonical blocks need not."""
    match block:
        case ToolCall():
            return ToolCall(block.id, block.name, block.arguments, block.signature)
        case Thinking():
            return Thinking(block.text, block.signature, block.encrypted, dialect=block.dialect)
        case _:
            return block


def test_blocks_written_at_the_same_time_stay_apart() -> None:
    events, response = encoded(
        Started("a", "m"),
        BlockStarted(0, Text("")),
        BlockStarted(1, ToolCall("c1", "f", "")),
        BlockDelta(0, text="Hi"),
        BlockStarted(2, ToolCall("c2", "g", "")),
        BlockDelta(2, arguments="[2]"),
        BlockDelta(1, arguments="[1]"),
        BlockEnded(2),
        BlockEnded(1),
        BlockEnded(0),
        Ended(Stop.TOOL_CALLS, Usage()),
    )
    assert [item.get("arguments", "Hi") for item in response["output"]] == ["Hi", "[1]", "[2]"]
    assert [kind for kind, _ in events].count("response.output_item.done") == 3


def test_a_call_cut_off_says_so() -> None:
    _, response = encoded(
        Started("a", "m"),
        BlockStarted(0, ToolCall("c1", "f", "")),
        BlockDelta(0, arguments='{"a'),
        Ended(Stop.LENGTH, Usage()),
    )
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (response["output"][0]["status"], response["output"][0]["arguments"]) == ("incomplete", '{"a')


def test_a_signature_that_comes_last_is_wrapped_for_its_own_vendor() -> None:
    _, response = encoded(
        *streamed(
            Answer("a", "m", (Thinking("Hm.", "c2lnbmVk", dialect=Dialect.ANTHROPIC),), Stop.END, Usage()),
        )
    )
    (item,) = response["output"]
    assert unwrap("Hm.", item["encrypted_content"]) == Thinking("Hm.", "c2lnbmVk", dialect=Dialect.ANTHROPIC)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RateLimitedError("Slow down."), "rate_limit_exceeded"),
        (ContentFilteredError("No."), "invalid_prompt"),
        (ProviderError("It is gone."), "server_error"),
    ],
)
def test_an_error_ends_the_stream(error: Any, code: str) -> None:
    encoder = ResponsesClient().stream_encoder(REQUEST)
    stream = encoder.encode(Started("a", "m")) + encoder.encode(BlockStarted(0, Text("Hi"))) + encoder.error(error)
    events = list(parse(stream))
    assert [kind for kind, _ in events[-2:]] == ["error", "response.failed"]
    told, failed = events[-2][1], events[-1][1]["response"]
    assert told["message"] == told["error"]["message"] == error.message
    assert (failed["status"], failed["error"]["code"]) == ("failed", code)
    Response.model_validate(failed)
    assert all(after[1]["sequence_number"] == before[1]["sequence_number"] + 1 for before, after in pairwise(events))


def test_an_error_before_the_start_is_one_event() -> None:
    (event,) = parse(ResponsesClient().stream_encoder(REQUEST).error(ProviderError("Away.")))
    assert event[0] == "error"
    assert orjson.dumps(event[1])
