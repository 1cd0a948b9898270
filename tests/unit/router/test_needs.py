"""What each dialect's bodies ask of a model, and roughly how long they are."""

from typing import Any

import orjson
import pytest

from serve_app.router.needs import IMAGE_TOKENS, LOW_DETAIL_TOKENS, PDF_PAGE_TOKENS, UNSEEN_PDF_PAGES, Endpoint, Needs
from serve_app.router.needs import needs_of as read_needs

PIXELS = "A" * 400_000


def needs_of(endpoint: Endpoint, raw: dict[str, Any]) -> Needs:
    return read_needs(endpoint, raw, len(orjson.dumps(raw)))


def chat(*parts: dict[str, Any], **more: Any) -> Needs:
    return needs_of("openai-chat", {"messages": [{"role": "user", "content": list(parts)}], **more})


def test_text_alone_needs_nothing() -> None:
    needs = needs_of("openai-chat", {"messages": [{"role": "user", "content": "word " * 800}]})
    assert needs == Needs(input_tokens=needs.input_tokens, longest_tokens=needs.input_tokens)
    assert 1000 <= needs.input_tokens <= 1030


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "json_schema"),
        ({"response_format": {"type": "json_object"}}, "json_schema"),
        ({"reasoning_effort": "low"}, "reasoning"),
    ],
)
def test_what_a_chat_body_asks_for(more: dict[str, Any], field: str) -> None:
    needs = chat(**more)
    asked = {name for name in ("tools", "json_schema", "reasoning") if getattr(needs, name)}
    assert asked == {field}


def test_what_asks_for_nothing() -> None:
    needs = chat(tools=[], response_format={"type": "text"}, reasoning_effort="none")
    assert needs == Needs(input_tokens=needs.input_tokens, longest_tokens=needs.input_tokens)


def test_how_long_the_answer_may_get() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).output_tokens == 7
    assert chat(max_tokens=5).output_tokens == 5
    assert needs_of("openai-responses", {"input": "x", "max_output_tokens": 9}).output_tokens == 9
    assert needs_of("anthropic", {"messages": [], "max_tokens": 11}).output_tokens == 11


@pytest.mark.parametrize(
    ("endpoint", "part", "modality", "tokens"),
    [
        ("openai-chat", {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXELS}"}}, "image", IMAGE_TOKENS),
        ("openai-chat", {"type": "image_url", "image_url": {"url": "https://x/y", "detail": "low"}}, "image", LOW_DETAIL_TOKENS),
        ("openai-chat", {"type": "input_audio", "input_audio": {"data": PIXELS, "format": "mp3"}}, "audio", 800),
        ("openai-chat", {"type": "file", "file": {"file_data": PIXELS}}, "document", 4 * PDF_PAGE_TOKENS),
        ("openai-responses", {"type": "input_image", "image_url": f"data:image/png;base64,{PIXELS}"}, "image", IMAGE_TOKENS),
        ("openai-responses", {"type": "input_file", "file_id": "f"}, "document", UNSEEN_PDF_PAGES * PDF_PAGE_TOKENS),
        ("anthropic", {"type": "image", "source": {"type": "base64", "data": PIXELS}}, "image", IMAGE_TOKENS),
        ("anthropic", {"type": "document", "source": {"type": "base64", "data": PIXELS}}, "document", 4 * PDF_PAGE_TOKENS),
    ],
)  # fmt: skip
def test_media_count_by_what_they_are_and_not_by_their_bytes(
    endpoint: Endpoint, part: dict[str, Any], modality: str, tokens: int
) -> None:
    turns = [{"role": "user", "content": [part]}]
    needs = needs_of(endpoint, {"input" if endpoint == "openai-responses" else "messages": turns})
    assert needs.modalities == {"text", modality}
    assert tokens <= needs.input_tokens <= tokens + 60


def test_an_image_in_a_tools_result_is_seen() -> None:
    result = {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}
    needs = needs_of("anthropic", {"messages": [{"role": "user", "content": [result]}]})
    assert needs.modalities == {"text", "image"}
    assert needs.tools


def test_a_document_of_plain_text_is_text() -> None:
    part = {"type": "document", "source": {"type": "text", "data": "word " * 800}}
    needs = needs_of("anthropic", {"messages": [{"role": "user", "content": [part]}]})
    assert needs.modalities == {"text"}
    assert needs.input_tokens > 1000


@pytest.mark.parametrize(
    ("endpoint", "raw"),
    [
        ("openai-chat", {"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}),
        ("openai-chat", {"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}),
        ("openai-responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}),
        ("anthropic", {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t"}]}]}),
    ],
)
def test_a_conversation_with_tool_calls_needs_a_model_that_knows_them(endpoint: Endpoint, raw: dict[str, Any]) -> None:
    assert needs_of(endpoint, raw).tools


def test_thinking_and_schemas_of_the_other_dialects() -> None:
    assert needs_of("anthropic", {"messages": [], "thinking": {"type": "enabled", "budget_tokens": 2000}}).reasoning
    assert needs_of("anthropic", {"messages": [], "thinking": {"type": "adaptive"}}).reasoning
    assert not needs_of("anthropic", {"messages": [], "thinking": {"type": "disabled"}}).reasoning
    schema = {"type": "json_schema", "schema": {}}
    assert needs_of("anthropic", {"messages": [], "output_config": {"format": schema}}).json_schema
    assert needs_of("anthropic", {"messages": [], "output_format": schema}).json_schema
    assert needs_of("openai-responses", {"input": "x", "text": {"format": schema}}).json_schema
    assert needs_of("openai-responses", {"input": "x", "reasoning": {"effort": "high"}}).reasoning
    assert not needs_of("openai-responses", {"input": "x", "reasoning": {"effort": "none"}}).reasoning


@pytest.mark.parametrize(
    ("given", "total", "longest"),
    [("x" * 400, 100, 100), (["x" * 400, "y" * 40], 110, 100), ([1, 2, 3], 3, 3), ([[1, 2], [3, 4, 5]], 5, 3)],
)
def test_embeddings_must_fit_one_by_one(given: Any, total: int, longest: int) -> None:
    needs = needs_of("embeddings", {"input": given})
    assert (needs.kind, needs.input_tokens, needs.longest_tokens) == ("embeddings", total, longest)


@pytest.mark.parametrize("endpoint", ["openai-chat", "openai-responses", "anthropic", "embeddings"])
@pytest.mark.parametrize("value", [None, 7, "x", [], [None], [[[]]], {}, [{"content": [{"type": []}]}], {"type": {}}])
def test_nonsense_is_no_error(endpoint: Endpoint, value: Any) -> None:
    names = "messages input tools response_format reasoning_effort thinking reasoning text output_config max_tokens"
    needs_of(endpoint, dict.fromkeys(names.split(), value))
