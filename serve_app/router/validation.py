"""Reading and checking a chat completion request; every refusal names the parameter that is wrong."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from jsonschema import Draft202012Validator, SchemaError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from configs.catalog import ModelEntry
from serve_app.core.errors import InvalidRequestError, MalformedBodyError
from serve_app.router.schemas import ChatRequest, Message

_NOT_OFFERED = (
    "audio",
    "prediction",
    "web_search_options",
    "reasoning_effort",
    "verbosity",
    "functions",
    "function_call",
)


def parse(body: bytes) -> tuple[ChatRequest, dict[str, Any]]:
    """The checked request, and the body as it came, for relaying.

    Raises:
        MalformedBodyError: not a JSON object.
        InvalidRequestError: a field is unknown, missing, of the wrong type or out of range.
    """
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedBodyError(
            "We could not parse the JSON body of your request.", code="malformed_body", position=exc.pos
        ) from exc
    if not isinstance(raw, dict):
        raise MalformedBodyError("The body must be a JSON object.")
    try:
        return ChatRequest.model_validate(raw), raw
    except ValidationError as exc:
        raise _translate(exc, raw) from exc


def check_capabilities(request: ChatRequest, model: ModelEntry) -> None:
    """Refuse what this model cannot do, so that nothing asked for is dropped in silence.

    Raises:
        InvalidRequestError: naming what cannot be done and where it was asked.
    """
    for name in _NOT_OFFERED:
        if getattr(request, name) is not None:
            raise _unsupported(f"'{name}' is not supported with the model '{model.id}'.", name)
    if request.n not in {None, 1}:
        raise _unsupported("Only one choice is written per request: 'n' must be 1.", "n")
    if request.store:
        raise _unsupported("Completions are not stored here: leave 'store' out or set it to false.", "store")
    if request.modalities and "audio" in request.modalities:
        raise _unsupported(f"The model '{model.id}' writes text only.", "modalities")
    if request.tools and not model.tools:
        raise _unsupported(f"The model '{model.id}' cannot use tools.", "tools")
    for name in ("tool_choice", "parallel_tool_calls"):
        if getattr(request, name) not in {None, "none"} and not request.tools:
            raise _unsupported(f"'{name}' is only allowed when 'tools' are given.", name)
    if request.top_logprobs and not request.logprobs:
        raise _unsupported("'top_logprobs' needs 'logprobs' set to true.", "top_logprobs")
    if request.stream_options and not request.stream:
        raise _unsupported("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    for name in ("max_tokens", "max_completion_tokens"):
        wanted = getattr(request, name)
        if wanted is not None and wanted > model.max_output_tokens:
            raise InvalidRequestError(
                f"{name} is too large: {wanted}. The model '{model.id}' writes at most {model.max_output_tokens} tokens.",
                param=name,
                code="invalid_value",
            )
    _check_response_format(request, model)
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages.{index}", model)


def _check_response_format(request: ChatRequest, model: ModelEntry) -> None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return
    if not model.json_schema:
        raise _unsupported(f"The model '{model.id}' cannot keep to a response format.", "response_format")
    if wanted.type == "json_object":
        return
    if wanted.json_schema is None or wanted.json_schema.json_schema is None:
        raise InvalidRequestError(
            "Missing required parameter: 'response_format.json_schema.schema'.",
            param="response_format",
            code="missing_required_parameter",
        )
    try:
        Draft202012Validator.check_schema(wanted.json_schema.json_schema)
    except (SchemaError, RecursionError) as exc:
        reason = exc.message[:200] if isinstance(exc, SchemaError) else "it is nested too deeply"
        raise InvalidRequestError(
            f"Invalid schema for response_format '{wanted.json_schema.name}': {reason}",
            param="response_format",
            code="invalid_json_schema",
        ) from exc


def _check_message(message: Message, where: str, model: ModelEntry) -> None:
    uses_tools = message.role == "tool" or message.tool_calls or message.tool_call_id
    if uses_tools and not model.tools:
        raise _unsupported(f"The model '{model.id}' cannot use tools; this message belongs to a tool call.", where)
    if message.audio is not None:
        raise _unsupported(f"The model '{model.id}' takes text only.", f"{where}.audio")
    if message.content is None and not (message.role == "assistant" and (message.tool_calls or message.refusal)):
        raise InvalidRequestError(
            f"Missing required parameter: '{where}.content'.",
            param=f"{where}.content",
            code="missing_required_parameter",
        )
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidRequestError(
            f"Missing required parameter: '{where}.tool_call_id'.",
            param=f"{where}.tool_call_id",
            code="missing_required_parameter",
        )
    if not isinstance(message.content, list):
        return
    for index, part in enumerate(message.content):
        if part.type != "text":
            raise _unsupported(
                f"The model '{model.id}' takes text only; this part is '{part.type}'.", f"{where}.content.{index}"
            )
        if part.text is None:
            raise InvalidRequestError(
                f"Missing required parameter: '{where}.content.{index}.text'.",
                param=f"{where}.content.{index}.text",
                code="missing_required_parameter",
            )


def _unsupported(message: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(message, param=param, code="unsupported_parameter")


def _translate(exc: ValidationError, raw: Mapping[str, Any]) -> InvalidRequestError:
    """The deepest complaint, and rather one about a value than about a type: of a union's members it is the one meant."""
    errors = [(list(_path(error, raw)), error) for error in exc.errors(include_url=False)]
    path, error = max(errors, key=lambda pair: (len(pair[0]), not pair[1]["type"].endswith("_type")))
    where = ".".join(str(part) for part in path)
    match error["type"]:
        case "extra_forbidden" if len(path) == 1:
            message, code = f"Unrecognized request argument supplied: {where}", "unknown_parameter"
        case "extra_forbidden":
            message, code = f"Unknown parameter: '{where}'.", "unknown_parameter"
        case "missing":
            message, code = f"Missing required parameter: '{where}'.", "missing_required_parameter"
        case kind if kind.endswith("_type"):
            message, code = f"Invalid type for '{where}': {error['msg'][0].lower()}{error['msg'][1:]}.", "invalid_type"
        case _:
            message, code = (
                f"Invalid value for '{where}': {error['msg'][0].lower()}{error['msg'][1:]}.",
                "invalid_value",
            )
    return InvalidRequestError(message, param=where or None, code=code)


def _path(error: ErrorDetails, raw: Any) -> Iterator[str | int]:
    """The place in the caller's own terms: pydantic also names the union members it tried, which are skipped."""
    here = raw
    *_, last = error["loc"]
    for part in error["loc"]:
        if (isinstance(here, Mapping) and part in here) or (isinstance(here, list) and isinstance(part, int)):
            here = here[part]  # type: ignore[index]  # a mapping or a list, tested above
            yield part
        elif part is last and error["type"] == "missing":
            yield part
