"""Fields of what a sandbox sent: each is of its type and within its bounds, or a `SandboxProtocolError` is raised."""

from collections.abc import Mapping
from typing import Final

from serve_app.core.errors import SandboxProtocolError

Fields = Mapping[str, object]
MOST_INTEGER: Final = 2**63 - 1
MOST_PATH_CHARS: Final = 4096
MOST_TEXT_CHARS: Final = 256 * 1024


def integer(fields: Fields, name: str, least: int = 0, most: int = MOST_INTEGER) -> int:
    value = fields.get(name)
    if type(value) is not int or not least <= value <= most:
        raise _unfit(name)
    return value


def maybe_integer(fields: Fields, name: str, least: int = 0, most: int = MOST_INTEGER) -> int | None:
    return None if fields.get(name) is None else integer(fields, name, least, most)


def number(fields: Fields, name: str) -> float:
    """Not negative, not infinite."""
    value = fields.get(name)
    if type(value) not in {int, float} or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise _unfit(name)
    return float(value)


def truth(fields: Fields, name: str, default: bool | None = None) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise _unfit(name)
    return value


def text(fields: Fields, name: str, most: int = MOST_TEXT_CHARS) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > most:
        raise _unfit(name)
    return value


def maybe_text(fields: Fields, name: str, most: int = MOST_TEXT_CHARS) -> str | None:
    return None if fields.get(name) is None else text(fields, name, most)


def path(fields: Fields, name: str = "path") -> str:
    return checked_path(fields.get(name))


def checked_path(value: object) -> str:
    """A name as the file system can have it: no NUL, and nothing but UTF-8 and escaped bytes."""
    if not isinstance(value, str) or not value or len(value) > MOST_PATH_CHARS or "\0" in value:
        raise _unfit("path")
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise _unfit("path") from None
    return value


def objects(fields: Fields, name: str, most: int) -> list[Fields]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) > most or not all(isinstance(one, dict) for one in value):
        raise _unfit(name)
    return value


def texts(fields: Fields, name: str, most: int) -> list[str]:
    value = fields.get(name)
    if not isinstance(value, list) or len(value) > most or not all(isinstance(one, str) for one in value):
        raise _unfit(name)
    return value


def _unfit(name: str) -> SandboxProtocolError:
    return SandboxProtocolError(f"The sandbox sent an answer whose field {name!r} is missing or unfit.", field=name)
