"""Fields of a request, checked: each function returns one, or refuses the request in words."""

from .refusals import Refused

MOST = 2**62
LONGEST_S = 30 * 86_400.0


def text(request: "dict[str, object]", name: str, default: "str | None" = None) -> str:
    value = request.get(name, default)
    if not isinstance(value, str):
        raise Refused("bad_request", f"{name} must be text.")
    return value


def flag(request: "dict[str, object]", name: str, *, default: bool = False) -> bool:
    value = request.get(name, default)
    if not isinstance(value, bool):
        raise Refused("bad_request", f"{name} must be true or false.")
    return value


def whole(
    request: "dict[str, object]", name: str, default: "int | None" = None, *, least: int = 0, most: int = MOST
) -> int:
    value = request.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused("bad_request", f"{name} must be a whole number from {least} to {most}.")
    return value


def seconds(request: "dict[str, object]", name: str) -> "float | None":
    """None: nothing was said."""
    value = request.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LONGEST_S:
        raise Refused("bad_request", f"{name} must be a number of seconds above 0, at most {LONGEST_S:.0f}.")
    return float(value)


def texts(request: "dict[str, object]", name: str) -> "list[str]":
    """Empty when nothing was said."""
    value = request.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Refused("bad_request", f"{name} must be a list of texts.")
    return value
