"""Every way a request can be wrong, and the parameter that is named for it."""

from typing import Any

import orjson
import pytest

from configs.catalog import load_catalog
from serve_app.core.errors import InvalidRequestError, MalformedBodyError
from serve_app.router.validation import check_capabilities, parse

MODEL = load_catalog().models[0]
GOOD: dict[str, Any] = {"model": MODEL.id, "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def check(body: dict[str, Any]) -> None:
    request, raw = parse(orjson.dumps(body))
    assert raw == body
    check_capabilities(request, MODEL)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"temperature": 0, "top_p": 1, "seed": 7, "n": 1, "max_tokens": 5, "stop": ["a", "b"]},
        {"temperature": None, "stop": None, "response_format": None, "tools": None},
        {"stop": "\n", "max_completion_tokens": 5, "presence_penalty": -2, "logit_bias": {"5": 1}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}},
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "s"},
        {"logprobs": True, "top_logprobs": 3, "modalities": ["text"]},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "hi"}]}]},
        {
            "messages": [
                {"role": "user", "content": "hi", "name": "ann"},
                {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None},
                {"role": "user", "content": "go on"},
            ]
        },
    ],
)
def test_what_is_accepted(more: dict[str, Any]) -> None:
    check({**GOOD, **more})


def _messages(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": "1"}, "seed", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10_000}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 10_000}, "max_completion_tokens", "invalid_value"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": [1]}, "stop.0", "invalid_type"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "unsupported_parameter"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "auto"}, "tool_choice", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"model": 5}, "model", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        (_messages("hi"), "messages.0", "invalid_type"),
        (_messages({"content": "hi"}), "messages.0.role", "missing_required_parameter"),
        (_messages({"role": "boss", "content": "hi"}), "messages.0.role", "invalid_value"),
        (_messages({"role": "user"}), "messages.0.content", "missing_required_parameter"),
        (_messages({"role": "user", "content": None}), "messages.0.content", "missing_required_parameter"),
        (_messages({"role": "user", "content": 5}), "messages.0.content", "invalid_type"),
        (_messages({"role": "user", "content": "a", "mood": "b"}), "messages.0.mood", "unknown_parameter"),
        (
            _messages({"role": "user", "content": [{"type": "text"}]}),
            "messages.0.content.0.text",
            "missing_required_parameter",
        ),
        (
            _messages({"role": "user", "content": [{"type": "text", "text": 5}]}),
            "messages.0.content.0.text",
            "invalid_type",
        ),
        (
            _messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}),
            "messages.0.content.0",
            "unsupported_parameter",
        ),
        (_messages({"role": "tool", "content": "a", "tool_call_id": "c"}), "messages.0", "unsupported_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "response_format.json_schema.name",
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
        check({**GOOD, **more})
    assert (caught.value.details["param"], caught.value.details["code"]) == (param, code)


def test_an_unknown_argument_is_refused_in_openais_words() -> None:
    with pytest.raises(InvalidRequestError, match="Unrecognized request argument supplied: colour"):
        check({**GOOD, "colour": 1})


@pytest.mark.parametrize("name", ["model", "messages"])
def test_what_must_be_there(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"Missing required parameter: '{name}'"):
        check({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nonsense", b"\xff\xfe", b'{"a": NaN}', b"[]", b'"hi"', b"[" * 5000, b'{"a": "\\ud800"}']
)
def test_what_is_not_a_json_object(body: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        parse(body)
