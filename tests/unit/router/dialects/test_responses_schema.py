"""Every way a Responses body can be wrong, in OpenAI's words, and what is let through."""

from typing import Any

import pytest

from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.responses_schema import validate

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "done"}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "low"}
FORMAT = {"type": "json_schema", "name": "answer", "schema": {}, "strict": True}


def body(**fields: Any) -> dict[str, Any]:
    whole = {"model": "gpt-5", "input": "Hi"} | fields
    return {name: value for name, value in whole.items() if value is not ...}


def said(*content: Any, role: str = "user") -> dict[str, Any]:
    return body(input=[{"role": role, "content": list(content)}])


@pytest.mark.parametrize(
    "raw",
    [
        body(),
        body(input=[{"role": "user", "content": "Hi"}, CALL, RESULT]),
        body(input=[RESULT], previous_response_id="resp_1"),
        body(input=[{"id": "msg_1"}, RESULT]),
        body(input=..., previous_response_id="resp_1"),
        body(input=..., prompt={"id": "pmpt_1", "variables": {"a": "b"}}),
        body(input=..., conversation={"id": "conv_1"}),
        said({"type": "input_text", "text": "Hi"}, IMAGE, {"type": "input_file", "file_id": "file-1"}),
        said({"type": "output_text", "text": "Hi", "annotations": []}, role="assistant"),
        body(input=[{"type": "a_type_of_next_year", "anything": 1}]),
        said({"type": "a_part_of_next_year"}),
        body(tools=[{"type": "a_tool_of_next_year"}, {"type": "function", "name": "f", "parameters": None}]),
        body(a_parameter_of_next_year=True, reasoning={"effort": "extreme"}, service_tier="fast"),
        body(temperature=0, top_p=1.0, max_output_tokens=16, top_logprobs=20, store=None, metadata={"a": "b"}),
        body(tool_choice={"type": "function", "name": "f"}, text={"format": FORMAT, "verbosity": "low"}),
        body(stream=True, truncation="auto", include=["reasoning.encrypted_content"]),
    ],
)
def test_what_is_let_through(raw: dict[str, Any]) -> None:
    validate(raw)


@pytest.mark.parametrize(
    ("raw", "param", "code", "message"),
    [
        (body(model=...), "model", "missing_required_parameter", "Missing required parameter: 'model'."),
        (
            body(model=None),
            "model",
            "invalid_type",
            "Invalid type for 'model': expected a string, but got null instead.",
        ),
        (
            body(input=...),
            "input",
            "missing_required_parameter",
            "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation_id' must be provided.",
        ),
        (
            body(input=5),
            "input",
            "invalid_type",
            "Invalid type for 'input': expected one of an array of objects or string, but got an integer instead.",
        ),
        (
            body(temperature="hot"),
            "temperature",
            "invalid_type",
            "Invalid type for 'temperature': expected a decimal, but got a string instead.",
        ),
        (
            body(temperature=True),
            "temperature",
            "invalid_type",
            "Invalid type for 'temperature': expected a decimal, but got a boolean instead.",
        ),
        (
            body(temperature=2.5),
            "temperature",
            "decimal_above_max_value",
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.",
        ),
        (
            body(max_output_tokens=5),
            "max_output_tokens",
            "integer_below_min_value",
            "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 5 instead.",
        ),
        (
            body(messages=[]),
            "messages",
            "unsupported_parameter",
            (
                "Unsupported parameter: 'messages'. In the Responses API, this parameter has moved to 'input'. Try again with "
                "the new parameter. See the API documentation for more information: "
                "https://platform.openai.com/docs/api-reference/responses/create."
            ),
        ),
        (
            body(input=[{"role": "user", "content": None}]),
            "input[0].content",
            "invalid_type",
            "Invalid type for 'input[0].content': expected one of an array of objects or string, but got null instead.",
        ),
        (
            body(input=[{"role": "boss", "content": "Hi"}]),
            "input[0].role",
            "invalid_value",
            "Invalid value: 'boss'. Supported values are: 'assistant', 'system', 'developer', and 'user'.",
        ),
        (
            body(input=[{"content": "Hi"}]),
            "input[0].role",
            "missing_required_parameter",
            "Missing required parameter: 'input[0].role'.",
        ),
        (
            said({"type": "input_text", "text": "Hi"}, role="assistant"),
            "input[0].content[0].type",
            "invalid_value",
            "Invalid value: 'input_text'. Supported values are: 'output_text' and 'refusal'.",
        ),
        (
            said({"type": "input_text"}),
            "input[0].content[0].text",
            "missing_required_parameter",
            "Missing required parameter: 'input[0].content[0].text'.",
        ),
        (
            said("Hi"),
            "input[0].content[0]",
            "invalid_type",
            "Invalid type for 'input[0].content[0]': expected an object, but got a string instead.",
        ),
        (
            body(input=[RESULT]),
            "input",
            None,
            "No tool call found for function call output with call_id c.",
        ),
        (
            body(input=[{"type": "function_call", "call_id": "c"}]),
            "input[0].name",
            "missing_required_parameter",
            "Missing required parameter: 'input[0].name'.",
        ),
        (
            body(tools=[{"type": "function", "name": "a b"}]),
            "tools[0].name",
            "invalid_value",
            (
                "Invalid 'tools[0].name': string does not match pattern. "
                "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
            ),
        ),
        (
            body(tools=[{"name": "f"}]),
            "tools[0].type",
            "missing_required_parameter",
            "Missing required parameter: 'tools[0].type'.",
        ),
        (
            body(tools={}),
            "tools",
            "invalid_type",
            "Invalid type for 'tools': expected an array of objects, but got an object instead.",
        ),
        (
            body(tool_choice="maybe"),
            "tool_choice",
            "invalid_value",
            "Invalid value: 'maybe'. Supported values are: 'none', 'auto', and 'required'.",
        ),
        (
            body(tool_choice=1),
            "tool_choice",
            "invalid_type",
            "Invalid type for 'tool_choice': expected one of a string or object, but got an integer instead.",
        ),
        (
            body(text={"format": {"type": "json_schema", "name": "a"}}),
            "text.format.schema",
            "missing_required_parameter",
            "Missing required parameter: 'text.format.schema'.",
        ),
        (
            body(text={"format": {"type": "xml"}}),
            "text.format.type",
            "invalid_value",
            "Invalid value: 'xml'. Supported values are: 'json_object', 'json_schema', and 'text'.",
        ),
        (
            body(metadata={"a": "b" * 513}),
            "metadata.a",
            "string_above_max_length",
            (
                "Invalid 'metadata.a': string too long. Expected a string with maximum length 512, "
                "but got a string with length 513 instead."
            ),
        ),
        (
            body(metadata={str(number): "" for number in range(17)}),
            "metadata",
            "object_above_max_properties",
            (
                "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
                "but got an object with 17 properties instead."
            ),
        ),
        (
            body(previous_response_id="resp_1", conversation="conv_1"),
            "previous_response_id",
            "mutually_exclusive_parameters",
            (
                "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. "
                "Ensure you are only providing one of: 'previous_response_id' or 'conversation'."
            ),
        ),
    ],
)
def test_what_is_refused(raw: dict[str, Any], param: str, code: str | None, message: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        validate(raw)
    assert refused.value.message == message
    assert refused.value.details == {"param": param, "code": code}
