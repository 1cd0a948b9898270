"""Whole Chat Completions answers: written for clients, read from providers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import ContextLengthError, ProviderError
from serve_app.router.dialects.canonical import (
    Answer,
    Block,
    Dialect,
    Message,
    Opaque,
    Refusal,
    Request,
    Stop,
    Text,
    Thinking,
    ToolCall,
)
from serve_app.router.dialects.openai_chat import OpenAIChatClient
from serve_app.router.dialects.openai_chat_provider import OpenAIChatProvider

CLIENT, PROVIDER = OpenAIChatClient(), OpenAIChatProvider()
ASKED = Request("m", (Message("user", (Text("hi"),)),), dialect=Dialect.ANTHROPIC)
_words = st.text(min_size=1, max_size=12)


def test_an_answer_is_written_as_openai_has_it() -> None:
    answer = Answer("a1", "m", (Text("hi"),), Stop.END, Usage(5, 3, 2, 1, 1), created=7, service_tier="default")
    assert CLIENT.encode_answer(answer, ASKED) == {
        "id": "a1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
        "service_tier": "default",
    }


@pytest.mark.parametrize(
    ("citation", "url"),
    [
        ({"type": "url_citation", "url": "https://a", "title": "A", "start_index": 1, "end_index": 2}, "https://a"),
        ({"type": "web_search_result_location", "url": "https://b", "title": "B", "cited_text": "x"}, "https://b"),
        ({"segment": {"text": "x"}, "web": {"uri": "https://c", "title": "C"}}, "https://c"),
    ],
)
def test_an_address_of_any_dialect_is_cited(citation: dict[str, Any], url: str) -> None:
    answer = Answer("a1", "m", (Text("one "), Text("two", (citation,), Dialect.ANTHROPIC)), Stop.END, Usage())
    (told,) = CLIENT.encode_answer(answer, ASKED)["choices"][0]["message"]["annotations"]
    assert told["url_citation"]["url"] == url
    assert told["url_citation"]["end_index"] in {2, 7}


_blocks = st.builds(
    lambda thoughts, text, refusal, calls: (*thoughts, *text, *refusal, *calls),
    st.lists(
        st.builds(Thinking, _words, _words, dialect=st.sampled_from([Dialect.ANTHROPIC, Dialect.GEMINI])), max_size=2
    ),
    st.lists(_words.map(Text), max_size=1),
    st.lists(_words.map(Refusal), max_size=1),
    st.just(()) | st.lists(st.builds(ToolCall, _words, _words, st.text(max_size=9), st.none() | _words), max_size=2),
)


def test_the_official_client_takes_our_answers() -> None:
    blocks = (Thinking("t", "s", dialect=Dialect.ANTHROPIC), Text("hi"), ToolCall("c", "f", "{}"))
    told = CLIENT.encode_answer(Answer("a1", "m", blocks, Stop.TOOL_CALLS, Usage(5, 3, 2, 1, 1)), ASKED)
    assert ChatCompletion.model_validate(told).to_dict(exclude_unset=True) == told


@given(_blocks, st.builds(Usage, *[st.integers(1, 99)] * 2, *[st.integers(0, 9)] * 2))
def test_an_answer_written_is_read_the_same(blocks: tuple[Block, ...], usage: Usage) -> None:
    stop = Stop.TOOL_CALLS if any(isinstance(block, ToolCall) for block in blocks) else Stop.LENGTH
    answer = Answer("a1", "m", blocks, stop, usage, created=7)
    assert PROVIDER.decode_answer(CLIENT.encode_answer(answer, ASKED)) == answer


def test_an_answer_bears_the_clocks_time_when_its_provider_tells_none() -> None:
    assert CLIENT.encode_answer(Answer("a", "m", (), Stop.END, Usage()), ASKED)["created"] > 1_700_000_000


def test_tokens_thought_beside_the_answer_are_counted_in() -> None:
    told = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 18}
    choices = [{"message": {"content": "a"}, "finish_reason": "stop"}]
    answer = PROVIDER.decode_answer(
        {"choices": choices, "usage": {**told, "completion_tokens_details": {"reasoning_tokens": 10}}}
    )
    assert answer.usage == Usage(input=5, output=13, reasoning=10)


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": [5]}, {"choices": "x"}, {"choices": [{"message": {"tool_calls": [{}]}}]}]
)
def test_what_is_no_answer(body: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        PROVIDER.decode_answer(body)


def test_an_error_in_place_of_an_answer() -> None:
    with pytest.raises(ContextLengthError, match="too long"):
        PROVIDER.decode_answer({"error": {"message": "too long", "code": "context_length_exceeded"}})


def test_what_only_another_dialect_shows_is_noted() -> None:
    blocks = (Opaque(Dialect.GEMINI, {"executableCode": {}}), Text("hi"))
    told = CLIENT.encode_answer(Answer("a", "m", blocks, Stop.END, Usage()), ASKED)
    assert told["x_aether_notes"] == ["a block of type 'executableCode' is left out"]
    assert told["choices"][0]["message"]["content"] == "hi"


def test_the_stop_sequence_that_was_met_is_told() -> None:
    answer = Answer("a", "m", (Text("hi"),), Stop.STOP_SEQUENCE, Usage(), stop_sequence="END", created=7)
    told = CLIENT.encode_answer(answer, ASKED)
    assert told["choices"][0]["stop_reason"] == "END"
    assert PROVIDER.decode_answer(told) == answer


def test_a_citation_without_an_address_stays_as_it_came() -> None:
    citation = {"type": "char_location", "cited_text": "x", "document_index": 0}
    answer = Answer("a", "m", (Text("hi", (citation,), Dialect.ANTHROPIC),), Stop.END, Usage())
    assert CLIENT.encode_answer(answer, ASKED)["choices"][0]["message"]["annotations"] == [citation]
