"""A Messages body is checked where Anthropic would check it, in Anthropic's words."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.anthropic import AnthropicClient
from serve_app.router.dialects.anthropic_provider import AnthropicProvider
from serve_app.router.dialects.anthropic_schema import validate, validate_count_tokens

CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"}


def body(**fields: Any) -> dict[str, Any]:
    whole = {"model": "claude-opus-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]} | fields
    return {name: value for name, value in whole.items() if value is not ...}


def said(*content: Any, role: str = "user") -> dict[str, Any]:
    return body(messages=[{"role": role, "content": list(content)}])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (body(max_tokens=...), "max_tokens: Field required"),
        (body(model=...), "model: Field required"),
        (body(messages=...), "messages: Field required"),
        (body(max_tokens=0), "max_tokens: Input should be greater than or equal to 1"),
        (body(max_tokens="9"), "max_tokens: Input should be a valid integer"),
        (body(messages=[]), "messages: at least one message is required"),
        (body(messages="Hi"), "messages: Input should be a valid list"),
        (body(messages=[{"role": "user"}]), "messages.0.content: Field required"),
        (body(messages=[{"role": "user", "content": 5}]), "messages.0.content: Input should be a valid list"),
        (
            body(messages=[{"role": "bot", "content": "Hi"}]),
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        ),
        (said({"type": "text"}), "messages.0.content.0.text.text: Field required"),
        (said({"text": "Hi"}), "messages.0.content.0.type: Field required"),
        (said("Hi"), "messages.0.content.0: Input should be a valid dictionary"),
        (
            said({"type": "text", "text": ""}),
            "messages.0.content.0.text.text: text content blocks must be non-empty",
        ),
        (
            said({"type": "image", "source": {"type": "base64", "data": "aa"}}),
            "messages.0.content.0.image.source.base64.media_type: Field required",
        ),
        (
            said({"type": "tool_use", "id": "a", "name": "f", "input": "{}"}, role="assistant"),
            "messages.0.content.0.tool_use.input: Input should be a valid dictionary",
        ),
        (body(temperature=1.5), "temperature: range: 0..1"),
        (body(stream="yes"), "stream: Input should be a valid boolean"),
        (body(system=5), "system: Input should be a valid list"),
        (body(thinking={"type": "enabled"}), "thinking.enabled.budget_tokens: Field required"),
        (
            body(thinking={"type": "enabled", "budget_tokens": 5}),
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
        ),
        (body(tools=[{"name": "f"}]), "tools.0.custom.input_schema: Field required"),
        (
            body(tools=[{"name": "a b", "input_schema": {}}]),
            "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
        ),
        (body(tool_choice={"type": "tool"}), "tool_choice.tool.name: Field required"),
        (body(output_config={"format": {"type": "json_schema"}}), "output_config.format.schema: Field required"),
    ],
)
def test_what_is_wrong_is_told_as_anthropic_tells_it(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate(raw)
    assert caught.value.message == message
    assert caught.value.details["param"] == message.split(": ", maxsplit=1)[0]


@pytest.mark.parametrize(
    "raw",
    [
        body(novelty={"x": 1}),
        body(messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        body(messages=[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]),
        said({"type": "novelty", "x": 1}, {"type": "text", "text": "x", "novelty": 1}),
        said({"type": "image", "source": {"type": "novelty"}}),
        body(tools=[{"type": "web_search_20260318", "name": "web_search"}, {"type": "mcp_toolset"}]),
        body(thinking={"type": "novelty"}, service_tier="novelty", output_config={"effort": "novelty"}),
        body(messages=[{"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT]}]),
        body(messages=[{"role": "assistant", "content": [CALL]}]),
    ],
)
def test_what_is_yet_unknown_passes(raw: dict[str, Any]) -> None:
    validate(raw)


def test_tokens_are_counted_without_a_limit() -> None:
    validate_count_tokens(body(max_tokens=...))
    with pytest.raises(InvalidRequestError, match="messages: at least one message is required"):
        validate_count_tokens({"model": "m", "messages": []})


def test_a_tool_call_needs_its_result() -> None:
    later = [{"role": "assistant", "content": [CALL]}, {"role": "user", "content": "And?"}]
    with pytest.raises(InvalidRequestError, match=r"^messages.0: `tool_use` ids were found without .*: toolu_1\. "):
        validate(body(messages=later))


def test_a_result_needs_its_tool_call() -> None:
    with pytest.raises(InvalidRequestError, match=r"^messages.0.content.0: unexpected `tool_use_id` found .*: toolu_1"):
        validate(said(RESULT))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 5) | st.sampled_from(["", "x", "text", "base64", "user"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "x"]), inner),
    max_leaves=4,
)
_SOURCES = st.fixed_dictionaries(
    {"type": st.sampled_from(["base64", "url", "file", "text", "content", "new"])},
    optional={"data": _JSON, "media_type": _JSON, "url": _JSON, "file_id": _JSON, "content": _JSON},
)
_BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "document", "tool_use", "tool_result", "thinking", "new"])},
    optional=dict.fromkeys(
        ("text", "citations", "id", "name", "input", "content", "thinking", "signature", "caller"), _JSON
    )
    | {"source": _SOURCES, "tool_use_id": _JSON, "cache_control": _JSON, "is_error": _JSON},
)
_MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.just("x") | st.lists(_BLOCKS, max_size=2)}
)
_BODIES = st.fixed_dictionaries(
    {"model": st.just("m"), "max_tokens": st.just(9), "messages": st.lists(_MESSAGES, min_size=1, max_size=2)},
    optional=dict.fromkeys(
        ("system", "tools", "tool_choice", "thinking", "metadata", "output_config", "stop_sequences"), _JSON
    ),
)


@settings(max_examples=200, deadline=None)
@given(_BODIES)
def test_what_passes_can_be_read_and_written(raw: dict[str, Any]) -> None:
    try:
        validate(raw)
    except InvalidRequestError:
        return
    request = AnthropicClient().decode_request(raw)
    try:
        AnthropicProvider().encode_request(request)
    except InvalidRequestError:
        return
