"""Gemini's streams, read whole."""

from typing import Any

import pytest

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import ContentFilteredError, ProviderError
from serve_app.router.dialects.canonical import (
    Block,
    BlockDelta,
    BlockStarted,
    Dialect,
    Ended,
    Media,
    Opaque,
    Started,
    Stop,
    Text,
    Thinking,
    ToolCall,
)
from serve_app.router.dialects.gemini_provider import GeminiProvider
from serve_app.router.dialects.gemini_stream import GeminiStreamDecoder
from serve_app.router.dialects.openai_chat_stream import ChatStreamEncoder
from tests.unit.router.dialects.anthropic_streams import assembled
from tests.unit.router.dialects.chat_streams import data_of, decoded, names, recorded

GEMINI = Dialect.GEMINI
ID = "mGLqaPmXBoOQnvgP4Kf2yAI"
PROMPT = Usage(input=11)
A, B = (
    {"web": {"uri": f"https://vertexaisearch.cloud.google.com/{path}", "title": title}}
    for path, title in (("a", "uefa.com"), ("b", "aljazeera.com"))
)
SEGMENT = {"startIndex": 0, "endIndex": 9, "text": "Spain won"}
WHOLE: dict[str, tuple[tuple[Block, ...], Stop, Usage]] = {
    "text": ((Text("AI learns from data. Grüße 👋"),), Stop.END, Usage(input=11, output=10, cached=4)),
    "thoughts": (
        (
            Thinking("**Considering**\n\nNine point eight.", dialect=GEMINI),
            Text("9.8"),
            Thinking(signature="EjQKMgEMAVSoXO4=", dialect=GEMINI),
        ),
        Stop.END,
        Usage(input=11, output=37, reasoning=33),
    ),
    "parallel_tools": (
        (
            ToolCall("gp737npz", "check_flight", '{"flight":"AA100"}', signature="CvcBAVSoXO4fL/8="),
            ToolCall("k3j5h2x9", "book_taxi", '{"time":"10 AM"}'),
        ),
        Stop.TOOL_CALLS,
        Usage(input=80, output=85, reasoning=55),
    ),
    "tool_without_id": (
        (
            Text("Let me look."),
            ToolCall(f"call_{ID}_0", "get_weather", '{"city":"Paris"}'),
            ToolCall(f"call_{ID}_1", "now", "{}"),
        ),
        Stop.TOOL_CALLS,
        Usage(input=85, output=30),
    ),
    "max_tokens": ((Text("Once upon a"),), Stop.LENGTH, PROMPT),
    "safety": ((Text("To build"),), Stop.CONTENT_FILTER, PROMPT),
    "code_execution": (
        (
            Opaque(GEMINI, {"executableCode": {"language": "PYTHON", "code": "print(1+1)"}}),
            Opaque(GEMINI, {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2\n"}}),
            Text("It is 2."),
        ),
        Stop.END,
        PROMPT,
    ),
    "image": ((Text("Here:"), Media("image", "image/png", "iVBORw0KGgo=")), Stop.END, PROMPT),
    "grounding": ((Text("Spain won.", ({"segment": SEGMENT, **A}, B), GEMINI),), Stop.END, PROMPT),
}
BROKEN = {"error", "prompt_blocked", "malformed_call", "cut_off"}


def test_every_recorded_stream_is_tested() -> None:
    assert set(names(GEMINI)) == WHOLE.keys() | BROKEN


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_recorded_stream_is_read_whole(name: str) -> None:
    answer = assembled(decoded(GeminiStreamDecoder(), recorded(GEMINI, name)))
    blocks, stop, usage = WHOLE[name]
    assert (answer.blocks, answer.stop, answer.usage) == (blocks, stop, usage)
    assert answer.id == ID
    assert answer.model.startswith("gemini-")


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_stream_means_what_the_whole_answer_does(name: str) -> None:
    chunks = list(data_of(recorded(GEMINI, name)))
    candidates = [chunk["candidates"][0] for chunk in chunks]
    parts = [part for one in candidates for part in one.get("content", {}).get("parts", ())]
    whole = {**chunks[-1], "candidates": [{**candidates[-1], "content": {"role": "model", "parts": parts}}]}
    answer = GeminiProvider().decode_answer(whole)
    blocks = WHOLE[name][0]
    assert _words(answer.blocks) == _words(blocks)
    assert [one for one in answer.blocks if not _has_words(one)] == [one for one in blocks if not _has_words(one)]
    assert (answer.stop, answer.usage) == WHOLE[name][1:]


def _has_words(block: Block) -> bool:
    return isinstance(block, Text | Thinking) and bool(block.text)


def _words(blocks: tuple[Block, ...]) -> dict[str, str]:
    """A whole answer may have the pieces of one text as several."""
    said: dict[str, str] = {}
    for block in blocks:
        if isinstance(block, Text | Thinking):
            said[type(block).__name__] = said.get(type(block).__name__, "") + block.text
    return said


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_recorded_stream_reaches_a_chat_completions_client(name: str) -> None:
    encoder = ChatStreamEncoder(wants_usage=True, now=7)
    events = decoded(GeminiStreamDecoder(), recorded(GEMINI, name))
    deltas = [
        chunk["choices"][0]["delta"] for chunk in data_of(b"".join(map(encoder.encode, events))) if chunk["choices"]
    ]
    texts = [block.text for block in WHOLE[name][0] if isinstance(block, Text)]
    calls = [block for block in WHOLE[name][0] if isinstance(block, ToolCall)]
    assert "".join(delta.get("content", "") for delta in deltas) == "".join(texts)
    begun = [call for delta in deltas for call in delta.get("tool_calls", ()) if "id" in call]
    assert [(call["index"], call["id"]) for call in begun] == [(index, call.id) for index, call in enumerate(calls)]
    assert [call.get("extra_content") for call in begun] == [
        {"google": {"thought_signature": call.signature}} if call.signature else None for call in calls
    ]


def test_a_blocked_prompt_is_told_before_anything_else() -> None:
    (data,) = data_of(recorded(GEMINI, "prompt_blocked"))
    with pytest.raises(ContentFilteredError, match="PROHIBITED_CONTENT"):
        list(GeminiStreamDecoder().decode(None, data))
    with pytest.raises(ContentFilteredError):
        GeminiProvider().decode_answer(data)


@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("error", "overloaded", "UNAVAILABLE"),
        ("malformed_call", "Malformed function call", "MALFORMED_FUNCTION_CALL"),
    ],
)
def test_what_fails_in_mid_stream_is_told(name: str, words: str, code: str) -> None:
    with pytest.raises(ProviderError, match=words) as caught:
        decoded(GeminiStreamDecoder(), recorded(GEMINI, name))
    assert caught.value.details["provider_code"] == code


def test_a_stream_that_is_cut_off_does_not_end() -> None:
    events = decoded(GeminiStreamDecoder(), recorded(GEMINI, "cut_off"))
    assert [type(event) for event in events] == [Started, BlockStarted, BlockDelta]
    assert not any(isinstance(event, Ended) for event in events)


@pytest.mark.parametrize(
    "data",
    [
        {"candidates": 5},
        {"candidates": [5]},
        {"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]},
        {"candidates": [{"content": {"parts": 5}}]},
        {"usageMetadata": "many"},
        {"promptFeedback": "no"},
    ],
)
def test_what_is_no_chunk(data: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        list(GeminiStreamDecoder().decode(None, data))
