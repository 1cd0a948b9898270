"""Every way a Chat Completions or an Embeddings body can be wrong, and OpenAI's words for it."""

from typing import Any

import pytest

from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.openai_chat_schema import validate, validate_embeddings

GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def _messages(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def _parts(*parts: Any) -> dict[str, Any]:
    return _messages({"role": "user", "content": list(parts)})


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True, "stream_options": {"include_usage": True, "x": 1}},
        {"temperature": 0, "top_p": 1, "seed": 7, "n": 2, "max_tokens": 5, "stop": ["a", "b"]},
        {"temperature": None, "stop": None, "response_format": None, "tools": None},
        {"stop": "\n", "max_completion_tokens": 5, "presence_penalty": -2, "logit_bias": {"5": 1}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "on_demand", "safety_identifier": "s"},
        {"logprobs": True, "top_logprobs": 3, "modalities": ["text", "audio"]},
        {"audio": {"format": "wav", "voice": "alloy"}, "prediction": {"type": "content", "content": "x"}},
        {"audio": {"format": "wav", "voice": {"id": "v"}}, "verbosity": "low", "reasoning_effort": "xhigh"},
        {"web_search_options": {"search_context_size": "low", "user_location": {"type": "approximate"}}},
        {"functions": [{"name": "f"}], "function_call": {"name": "f"}},
        {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {
            "tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [FUNCTION]}},
        },
        {"tools": [{"type": "browser_search"}]},
        {"tool_choice": "none"},
        {"colour": "red", "provider": {"order": ["a"]}},
        _messages({"role": "developer", "content": [{"type": "text", "text": "hi", "cache_control": {}}]}),
        _messages({"role": "user", "content": "a", "mood": "b"}),
        _messages({"role": "assistant", "content": None, "tool_calls": [CALL]}),
        _messages(
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "c", "input": ""}}]}
        ),
        _messages({"role": "assistant", "refusal": "no"}),
        _messages({"role": "assistant", "audio": {"id": "audio_1"}}),
        _messages({"role": "tool", "content": "a", "tool_call_id": "c"}),
        _messages({"role": "function", "content": "a", "name": "f"}),
        _parts({"type": "image_url", "image_url": {"url": "data:", "detail": "low"}}),
        _parts({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
        _parts({"type": "file", "file": {"file_id": "file_1"}}),
        _parts({"type": "video_url", "video_url": {"url": "https://a"}}),
    ],
)
def test_what_is_accepted(more: dict[str, Any]) -> None:
    validate({**GOOD, **more})


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": "1"}, "seed", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": [1]}, "stop.0", "invalid_type"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "unsupported_parameter"),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ({"tool_choice": "auto"}, "tool_choice", "unsupported_parameter"),
        ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
        ({"tools": []}, "tools", "invalid_value"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools.0.type", "missing_required_parameter"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a" * 65}}]}, "tools.0.function.name", "invalid_value"),
        ({"tools": [FUNCTION], "tool_choice": "any"}, "tool_choice", "invalid_value"),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function"}},
            "tool_choice.function",
            "missing_required_parameter",
        ),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"audio": {"format": "wav"}}, "audio.voice", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        (_messages("hi"), "messages.0", "invalid_type"),
        (_messages({"content": "hi"}), "messages.0.role", "missing_required_parameter"),
        (_messages({"role": "boss", "content": "hi"}), "messages.0.role", "invalid_value"),
        (_messages({"role": "user"}), "messages.0.content", "missing_required_parameter"),
        (_messages({"role": "user", "content": None}), "messages.0.content", "missing_required_parameter"),
        (_messages({"role": "assistant", "content": None}), "messages.0.content", "missing_required_parameter"),
        (_messages({"role": "user", "content": 5}), "messages.0.content", "invalid_type"),
        (_messages({"role": "tool", "content": "a"}), "messages.0.tool_call_id", "missing_required_parameter"),
        (_messages({"role": "function", "content": "a"}), "messages.0.name", "missing_required_parameter"),
        (
            _messages({"role": "assistant", "tool_calls": [{"type": "function", "function": CALL["function"]}]}),
            "messages.0.tool_calls.0.id",
            "missing_required_parameter",
        ),
        (
            _messages({"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}),
            "messages.0.tool_calls.0.function",
            "missing_required_parameter",
        ),
        (_parts({"type": "text"}), "messages.0.content.0.text", "missing_required_parameter"),
        (_parts({"type": "text", "text": 5}), "messages.0.content.0.text", "invalid_type"),
        (
            _parts({"type": "image_url", "image_url": {}}),
            "messages.0.content.0.image_url.url",
            "missing_required_parameter",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
    ],
)
def test_what_is_refused(more: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate({**GOOD, **more})
    assert (caught.value.details["param"], caught.value.details["code"]) == (param, code)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"temperature": "hot"}, "Invalid type for 'temperature': expected a decimal, but got a string instead."),
        (
            {"temperature": 3},
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
        ),
        (
            _messages({"role": "user", "content": 5}),
            "Invalid type for 'messages.0.content': expected one of a string or an array, but got an integer instead.",
        ),
        (
            {"messages": []},
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ),
        (
            {"response_format": {"type": "xml"}},
            "Invalid value: 'xml'. Supported values are: 'text', 'json_object', and 'json_schema'.",
        ),
        (
            {"stop": ["a"] * 5},
            "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 5 instead.",
        ),
    ],
)
def test_openais_words(more: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate({**GOOD, **more})
    assert caught.value.message == words


@pytest.mark.parametrize("name", ["model", "messages"])
def test_what_must_be_there(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"Missing required parameter: '{name}'"):
        validate({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize("given", ["hi", ["a", "b"], [1, 2], [[1, 2], [3]]])
def test_embeddings_that_are_accepted(given: Any) -> None:
    validate_embeddings({"model": "e", "input": given, "encoding_format": "base64", "dimensions": 8, "x": 1})


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "e"}, "input", "missing_required_parameter"),
        ({"input": "a"}, "model", "missing_required_parameter"),
        ({"model": "e", "input": ""}, "input", "invalid_value"),
        ({"model": "e", "input": []}, "input", "invalid_value"),
        ({"model": "e", "input": ["a"] * 2049}, "input", "invalid_value"),
        ({"model": "e", "input": {"a": 1}}, "input", "invalid_type"),
        ({"model": "e", "input": ["a", None]}, "input.1", "invalid_type"),
        ({"model": "e", "input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"model": "e", "input": "a", "dimensions": 0}, "dimensions", "invalid_value"),
    ],
)
def test_embeddings_that_are_refused(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate_embeddings(body)
    assert (caught.value.details["param"], caught.value.details["code"]) == (param, code)
