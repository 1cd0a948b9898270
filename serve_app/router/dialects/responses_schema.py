"""Checking a body of OpenAI's Responses API before any provider is called, in OpenAI's own words.

Known fields are checked and unknown ones let through: bodies are relayed to providers that may know more than we do. For
the same reason lists that grow with each release (types of items and tools, efforts, tiers) are not closed here.
https://platform.openai.com/docs/api-reference/responses/create
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from serve_app.core.errors import InvalidRequestError

Check = Callable[[Any, str], None]
"""Takes a value and the path it was found at; raises `InvalidRequestError`."""

_SEE = "https://platform.openai.com/docs/api-reference/responses/create"
_MOVED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
_NEVER_NULL = frozenset({"model", "input", "text", "tools", "tool_choice"})
_NAME = re.compile(r"^[a-zA-Z0-9_-]+$")
_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def validate(raw: Mapping[str, Any]) -> None:
    """Raises `InvalidRequestError` with `param` and `code` as OpenAI would answer."""
    if "model" not in raw:
        raise _missing("model")
    for name, value in raw.items():
        if check := _FIELDS.get(name):
            if value is not None or name in _NEVER_NULL:
                check(value, name)
        elif name in _MOVED:
            raise InvalidRequestError(
                f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to '{_MOVED[name]}'. "
                f"Try again with the new parameter. See the API documentation for more information: {_SEE}.",
                param=name,
                code="unsupported_parameter",
            )
    goes_on = raw.get("previous_response_id"), raw.get("conversation")
    if all(goes_on):
        raise InvalidRequestError(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. "
            "Ensure you are only providing one of: 'previous_response_id' or 'conversation'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if any(goes_on):
        return
    sent = raw.get("input")
    if not sent and not raw.get("prompt"):
        raise InvalidRequestError(
            "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation_id' must be provided.",
            param="input",
            code="missing_required_parameter",
        )
    if isinstance(sent, list):
        _check_outputs_have_calls(sent)


def kind_of(item: Mapping[str, Any]) -> str:
    """An item's type. A message may leave it out, and so may a reference, which has nothing but an id."""
    kind: str | None = item.get("type")
    return kind or ("message" if "role" in item or "id" not in item else "item_reference")


def _check_outputs_have_calls(items: list[dict[str, Any]]) -> None:
    """Only of a conversation that is all here: one that refers to items elsewhere may have the call there."""
    kinds = [kind_of(item) for item in items]
    if "function_call_output" not in kinds or "item_reference" in kinds:
        return
    calls = {item["call_id"] for item, kind in zip(items, kinds, strict=True) if kind == "function_call"}
    for item, kind in zip(items, kinds, strict=True):
        if kind == "function_call_output" and item["call_id"] not in calls:
            raise InvalidRequestError(
                f"No tool call found for function call output with call_id {item['call_id']}.", param="input", code=None
            )


# --- what is wrong, as OpenAI says it ------------------------------------------------------------------------


def _missing(where: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Missing required parameter: '{where}'.", param=where, code="missing_required_parameter"
    )


def _wrong_type(where: str, expected: str, value: Any) -> InvalidRequestError:
    got = _KINDS.get(type(value), "another type")
    return InvalidRequestError(
        f"Invalid type for '{where}': expected {expected}, but got {got} instead.", param=where, code="invalid_type"
    )


def _unsupported_value(where: str, value: str, supported: tuple[str, ...]) -> InvalidRequestError:
    *head, last = (f"'{name}'" for name in supported)
    names = f"{', '.join(head)}{',' if len(head) > 1 else ''} and {last}" if head else last
    return InvalidRequestError(
        f"Invalid value: '{value}'. Supported values are: {names}.", param=where, code="invalid_value"
    )


# --- checks of one value -------------------------------------------------------------------------------------


def _string(value: Any, where: str) -> None:
    if type(value) is not str:
        raise _wrong_type(where, "a string", value)


def _boolean(value: Any, where: str) -> None:
    if type(value) is not bool:
        raise _wrong_type(where, "a boolean", value)


def _object(value: Any, where: str) -> None:
    if type(value) is not dict:
        raise _wrong_type(where, "an object", value)


def _number(kind: str, low: float | None, high: float | None = None) -> Check:
    types: tuple[type, ...] = (int,) if kind == "integer" else (int, float)
    expected = "an integer" if kind == "integer" else "a decimal"

    def check(value: Any, where: str) -> None:
        if type(value) not in types:
            raise _wrong_type(where, expected, value)
        for bound, side, sign, is_outside in (
            (low, "below minimum", ">=", low is not None and value < low),
            (high, "above maximum", "<=", high is not None and value > high),
        ):
            if is_outside:
                raise InvalidRequestError(
                    f"Invalid '{where}': {kind} {side} value. Expected a value {sign} {bound}, but got {value} instead.",
                    param=where,
                    code=f"{kind}_{side.replace('imum', '').replace(' ', '_')}_value",
                )

    return check


def _one_of(*supported: str) -> Check:
    def check(value: Any, where: str) -> None:
        _string(value, where)
        if value not in supported:
            raise _unsupported_value(where, value, supported)

    return check


def _name(value: Any, where: str) -> None:
    _SHORT(value, where)
    if not _NAME.match(value):
        raise InvalidRequestError(
            f"Invalid '{where}': string does not match pattern. "
            f"Expected a string that matches the pattern '{_NAME.pattern}'.",
            param=where,
            code="invalid_value",
        )


def _at_most(length: int) -> Check:
    def check(value: Any, where: str) -> None:
        _string(value, where)
        if len(value) > length:
            raise InvalidRequestError(
                f"Invalid '{where}': string too long. Expected a string with maximum length {length}, "
                f"but got a string with length {len(value)} instead.",
                param=where,
                code="string_above_max_length",
            )

    return check


_SHORT, _LONG = _at_most(64), _at_most(512)


def _fields(fields: Mapping[str, Check], required: tuple[str, ...] = ()) -> Check:
    """An object; fields that are null count as left out unless they are required."""

    def check(value: Any, where: str) -> None:
        if type(value) is not dict:
            raise _wrong_type(where, "an object", value)
        for name in required:
            if name not in value:
                raise _missing(f"{where}.{name}")
        for name, one in fields.items():
            inner = value.get(name)
            if inner is not None or (name in required and name in value):
                one(inner, f"{where}.{name}")

    return check


def _each(check: Check, expected: str) -> Check:
    def check_all(value: Any, where: str) -> None:
        if type(value) is not list:
            raise _wrong_type(where, expected, value)
        for index, one in enumerate(value):
            check(one, f"{where}[{index}]")

    return check_all


def _text_or(check: Check) -> Check:
    """A string, or what `check` takes."""

    def check_either(value: Any, where: str) -> None:
        if type(value) is str:
            return
        if type(value) is not list:
            raise _wrong_type(where, "one of an array of objects or string", value)
        check(value, where)

    return check_either


def _metadata(value: Any, where: str) -> None:
    _object(value, where)
    if len(value) > 16:
        raise InvalidRequestError(
            f"Invalid '{where}': too many properties. Expected an object with at most 16 properties, "
            f"but got an object with {len(value)} properties instead.",
            param=where,
            code="object_above_max_properties",
        )
    for key, text in value.items():
        _SHORT(key, where)
        _LONG(text, f"{where}.{key}")


# --- the body ------------------------------------------------------------------------------------------------

_PARTS: dict[str, Check] = {
    "input_text": _fields({"text": _string}, ("text",)),
    "input_image": _fields({"image_url": _string, "file_id": _string, "detail": _string}),
    "input_file": _fields({"file_data": _string, "file_url": _string, "file_id": _string, "filename": _string}),
    "output_text": _fields({"text": _string}, ("text",)),
    "refusal": _fields({"refusal": _string}, ("refusal",)),
}
_SPOKEN, _HEARD = ("output_text", "refusal"), ("input_text", "input_image", "input_file")
_ROLE = _one_of("assistant", "system", "developer", "user")


def _part(value: Any, where: str, refused: tuple[str, ...] = _SPOKEN, supported: tuple[str, ...] = _HEARD) -> None:
    _object(value, where)
    kind = value.get("type")
    if kind is None:
        raise _missing(f"{where}.type")
    _string(kind, f"{where}.type")
    if kind in refused:
        raise _unsupported_value(f"{where}.type", kind, supported)
    if check := _PARTS.get(kind):
        check(value, where)


def _spoken_part(value: Any, where: str) -> None:
    _part(value, where, _HEARD, _SPOKEN)


_HEARD_CONTENT = _text_or(_each(_part, "an array of objects"))
_SPOKEN_CONTENT = _text_or(_each(_spoken_part, "an array of objects"))


def _message(value: dict[str, Any], where: str) -> None:
    for name in ("role", "content"):
        if name not in value:
            raise _missing(f"{where}.{name}")
    _ROLE(value["role"], f"{where}.role")
    content = _SPOKEN_CONTENT if value["role"] == "assistant" else _HEARD_CONTENT
    content(value["content"], f"{where}.content")


_ITEMS: dict[str, Check] = {
    "message": _message,
    "function_call": _fields(
        {"call_id": _SHORT, "name": _string, "arguments": _string}, ("call_id", "name", "arguments")
    ),
    "function_call_output": _fields({"call_id": _SHORT, "output": _HEARD_CONTENT}, ("call_id", "output")),
    "custom_tool_call": _fields({"call_id": _string, "name": _string, "input": _string}, ("call_id", "name", "input")),
    "custom_tool_call_output": _fields({"call_id": _string, "output": _HEARD_CONTENT}, ("call_id", "output")),
    "reasoning": _fields(
        {"summary": _each(_object, "an array of objects"), "encrypted_content": _string}, ("summary",)
    ),
    "item_reference": _fields({"id": _string}, ("id",)),
}


def _item(value: Any, where: str) -> None:
    _object(value, where)
    kind = kind_of(value)
    _string(kind, f"{where}.type")
    if check := _ITEMS.get(kind):
        check(value, where)


_TOOLS: dict[str, Check] = {
    "function": _fields({"name": _name, "description": _string, "parameters": _object, "strict": _boolean}, ("name",)),
    "custom": _fields({"name": _name, "description": _string, "format": _object}, ("name",)),
    "mcp": _fields({"server_label": _string}, ("server_label",)),
}


def _tool(value: Any, where: str) -> None:
    _object(value, where)
    kind = value.get("type")
    if kind is None:
        raise _missing(f"{where}.type")
    _string(kind, f"{where}.type")
    if check := _TOOLS.get(kind):
        check(value, where)


def _tool_choice(value: Any, where: str) -> None:
    if type(value) is str:
        _one_of("none", "auto", "required")(value, where)
    elif type(value) is not dict:
        raise _wrong_type(where, "one of a string or object", value)
    elif "type" not in value:
        raise _missing(f"{where}.type")
    elif value["type"] in {"function", "custom"}:
        _fields({"name": _string}, ("name",))(value, where)


_SCHEMA = _fields({"name": _name, "schema": _object, "strict": _boolean, "description": _string}, ("name", "schema"))


def _format(value: Any, where: str) -> None:
    _fields({"type": _one_of("json_object", "json_schema", "text")}, ("type",))(value, where)
    if value["type"] == "json_schema":
        _SCHEMA(value, where)


def _conversation(value: Any, where: str) -> None:
    if type(value) is not str:
        _fields({"id": _string}, ("id",))(value, where)


_FIELDS: dict[str, Check] = {
    "model": _string,
    "input": _text_or(_each(_item, "an array of objects")),
    "instructions": _string,
    "stream": _boolean,
    "store": _boolean,
    "previous_response_id": _string,
    "conversation": _conversation,
    "background": _boolean,
    "prompt": _fields({"id": _string}, ("id",)),
    "tools": _each(_tool, "an array of objects"),
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _boolean,
    "max_output_tokens": _number("integer", 16),
    "max_tool_calls": _number("integer", 1),
    "temperature": _number("decimal", 0, 2),
    "top_p": _number("decimal", 0, 1),
    "top_logprobs": _number("integer", 0, 20),
    "text": _fields({"format": _format, "verbosity": _string}),
    "reasoning": _fields({"effort": _string, "summary": _string, "generate_summary": _string}),
    "include": _each(_string, "an array of strings"),
    "truncation": _one_of("auto", "disabled"),
    "metadata": _metadata,
    "service_tier": _string,
    "user": _string,
    "safety_identifier": _string,
    "prompt_cache_key": _string,
    "stream_options": _fields({"include_obfuscation": _boolean}),
}
