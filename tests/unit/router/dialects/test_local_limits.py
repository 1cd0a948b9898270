"""What models of our own are not asked to do, and the parameter that is named for it."""

from typing import Any

import pytest

from configs.catalog import ModelEntry, load_catalog
from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.local_limits import check_local
from serve_app.router.dialects.openai_chat_schema import validate

SMALL = next(model for model in load_catalog().models if model.engine == "llamacpp")
ABLE = SMALL.model_copy(
    update={"engine": "vllm", "tools": True, "reasoning": True, "modalities": ("text", "image")},
)
GOOD: dict[str, Any] = {"model": SMALL.id, "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
FUNCTION = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
RESULT = {"role": "tool", "content": "a", "tool_call_id": "c"}


def check(more: dict[str, Any], model: ModelEntry = SMALL) -> None:
    body = {**GOOD, **more}
    validate(body)
    check_local(body, model)


def _messages(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"temperature": 0, "top_p": 1, "seed": 7, "n": 1, "max_tokens": 5, "stop": ["a", "b"]},
        {"audio": None, "functions": None, "store": False, "modalities": ["text"], "reasoning_effort": None},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
        _messages(
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None, "annotations": []},
        ),
    ],
)
def test_what_is_accepted(more: dict[str, Any]) -> None:
    check(more)


def test_what_a_model_can_is_not_refused() -> None:
    check({"tools": [FUNCTION], "tool_choice": "auto", "reasoning_effort": "low", "top_k": 5, "min_p": 0.1}, ABLE)
    check(_messages({"role": "user", "content": [IMAGE]}, RESULT), ABLE)


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"top_k": 5}, "top_k", "unknown_parameter"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        (_messages({"role": "user", "content": "a", "mood": "b"}), "messages.0.mood", "unknown_parameter"),
        ({"max_tokens": 10_000}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 10_000}, "max_completion_tokens", "invalid_value"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"tools": [FUNCTION]}, "tools", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        (_messages(RESULT), "messages.0", "unsupported_parameter"),
        (_messages({"role": "function", "content": "a", "name": "f"}), "messages.0.role", "unsupported_parameter"),
        (_messages({"role": "assistant", "audio": {"id": "a"}}), "messages.0.audio", "unsupported_parameter"),
        (_messages({"role": "user", "content": [IMAGE]}), "messages.0.content.0", "unsupported_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "objekt"}}}},
            "response_format",
            "invalid_json_schema",
        ),
    ],
)
def test_what_is_refused(more: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check(more)
    assert (caught.value.details["param"], caught.value.details["code"]) == (param, code)


def test_a_model_that_writes_no_json_is_not_asked_to() -> None:
    with pytest.raises(InvalidRequestError, match="cannot keep to a response format"):
        check({"response_format": {"type": "json_object"}}, SMALL.model_copy(update={"json_schema": False}))


def test_hosted_tools_are_nobodys_here() -> None:
    with pytest.raises(InvalidRequestError, match="functions only"):
        check({"tools": [{"type": "web_search"}]}, ABLE)


def test_an_unknown_argument_is_refused_in_openais_words() -> None:
    with pytest.raises(InvalidRequestError, match="Unrecognized request argument supplied: colour"):
        check({"colour": 1})
