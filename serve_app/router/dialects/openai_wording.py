"""OpenAI's own words for what is wrong with a body, made from what pydantic found."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from serve_app.core.errors import InvalidRequestError

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
}
_GOT: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),
    (str, "a string"),
    (int, "an integer"),
    (float, "a decimal"),
    (list, "an array"),
    (dict, "an object"),
)
_Path = tuple[str | int, ...]


def missing(*where: str | int, param: str | None = None) -> InvalidRequestError:
    """`param` when what is blamed is not the very place."""
    path = _dotted(where)
    message = f"Missing required parameter: '{path}'."
    return InvalidRequestError(message, param=param or path, code="missing_required_parameter")


def unsupported(message: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(message, param=param, code="unsupported_parameter")


def unknown(*where: str | int) -> InvalidRequestError:
    path = _dotted(where)
    message = f"Unknown parameter: '{path}'." if len(where) > 1 else f"Unrecognized request argument supplied: {path}"
    return InvalidRequestError(message, param=path, code="unknown_parameter")


def refusal(exc: ValidationError, raw: Mapping[str, Any]) -> InvalidRequestError:
    """The deepest complaint, and rather one about a value than about a type: of a union's members it is the one meant."""
    errors = [(tuple(_path(error, raw)), error) for error in exc.errors(include_url=False)]
    path, error = max(errors, key=lambda pair: (len(pair[0]), not pair[1]["type"].endswith("_type")))
    where = _dotted(path)
    if error["type"] == "missing":
        return missing(*path)
    if error["type"] in _EXPECTED:
        wanted = list(dict.fromkeys(_EXPECTED.get(other["type"], "") for at, other in errors if at == path))
        message = f"Invalid type for '{where}': expected {_one_of(wanted)}, but got {_got(error['input'])} instead."
        return InvalidRequestError(message, param=where, code="invalid_type")
    return InvalidRequestError(_about_value(where, error), param=where or None, code="invalid_value")


def _about_value(where: str, error: ErrorDetails) -> str:
    context, value = error.get("ctx", {}), error["input"]
    least, most = context.get("ge"), context.get("le")
    kind = "decimal" if isinstance(least, float) or isinstance(most, float) else "integer"
    match error["type"]:
        case "greater_than_equal":
            return f"Invalid '{where}': {kind} below minimum value. Expected a value >= {least:g}, but got {value} instead."
        case "less_than_equal":
            return (
                f"Invalid '{where}': {kind} above maximum value. Expected a value <= {most:g}, but got {value} instead."
            )
        case "too_short":
            return f"Invalid '{where}': empty array. Expected an array with minimum length {context['min_length']}, but got an empty array instead."
        case "too_long":
            return f"Invalid '{where}': array too long. Expected an array with maximum length {context['max_length']}, but got an array with length {context['actual_length']} instead."
        case "string_too_short":
            return f"Invalid '{where}': empty string. Expected a string with minimum length {context['min_length']}, but got an empty string instead."
        case "string_too_long":
            return f"Invalid '{where}': string too long. Expected a string with maximum length {context['max_length']}, but got a string with length {len(value)} instead."
        case "string_pattern_mismatch":
            return f"Invalid '{where}': string does not match pattern. Expected a string that matches the pattern '{context['pattern']}'."
        case "literal_error":
            shown = f"'{value[:100]}'" if isinstance(value, str) else _got(value)
            return f"Invalid value: {shown}. Supported values are: {context['expected'].replace(' or ', ', and ')}."
        case _:
            return f"Invalid value for '{where}': {error['msg'][0].lower()}{error['msg'][1:]}."


def _one_of(wanted: list[str]) -> str:
    known = [name for name in wanted if name]
    return known[0] if len(known) == 1 else f"one of {', '.join(known[:-1])} or {known[-1]}"


def _got(value: object) -> str:
    return next((name for kind, name in _GOT if isinstance(value, kind)), "null")


def _dotted(path: _Path) -> str:
    return ".".join(str(part) for part in path)


def _path(error: ErrorDetails, raw: Any) -> Iterator[str | int]:
    """The place in the caller's own terms: pydantic also names the union members it tried, which are skipped."""
    here = raw
    *_, last = error["loc"]
    for part in error["loc"]:
        match here, part:
            case (Mapping(), _) if part in here:
                here = here[part]
            case (list(), int(index)):
                here = here[index]
            case _ if part is not last or error["type"] != "missing":
                continue
        yield part
