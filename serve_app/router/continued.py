"""Tells in an answer what it goes on from: its provider was sent the whole conversation, and says that it knows of none.

All else stays in the bytes the provider wrote.
"""

import re
from typing import Any

import orjson

from serve_app.router.providers.base import Pieces
from serve_app.router.splice import with_new_member

_NAME = "previous_response_id"
# Quotes inside a JSON string are escaped, so nothing a model or a client said can look like this.
_MEMBER = re.compile(rb'"previous_response_id"\s*+:\s*+(null|"(?:[^"\\]++|\\.)*+")', re.DOTALL)
_DATA = b"data:"


def continued(body: bytes, previous: str) -> bytes:
    """A whole response that goes on from `previous`."""
    if spliced := _spliced(body, previous):
        return spliced
    return with_new_member(body, _NAME, previous) if b'"%b"' % _NAME.encode() not in body else _anew(body, previous)


def continued_events(whole: bytes, previous: str) -> bytes:
    """The same for whole events of a stream, some of which carry the response."""
    if b'"response"' not in whole:
        return whole
    return b"".join(_line(line, previous) for line in whole.splitlines(keepends=True))


class Continued(Pieces):
    """A stream whose response goes on from `previous`."""

    def __init__(self, pieces: Pieces, previous: str) -> None:
        self._pieces = pieces
        self._previous = previous

    async def __anext__(self) -> bytes:
        return continued_events(await anext(self._pieces), self._previous)

    async def aclose(self) -> None:
        await self._pieces.aclose()


def _line(line: bytes, previous: str) -> bytes:
    if not line.startswith(_DATA) or b'"response"' not in line:
        return line
    said = line.rstrip(b"\r\n")
    data = said.removeprefix(_DATA)
    return _DATA + (_spliced(data, previous) or _anew(data, previous)) + line[len(said) :]


def _spliced(data: bytes, previous: str) -> bytes | None:
    """None where there is no such place, or more than one: a tool's schema may have a member of this name."""
    places = list(_MEMBER.finditer(data))
    if len(places) != 1:
        return None
    start, end = places[0].span(1)
    return data[:start] + orjson.dumps(previous) + data[end:]


def _anew(data: bytes, previous: str) -> bytes:
    """Written again, because only the structure tells which place is meant."""
    try:
        value: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
    response = value.get("response", value) if isinstance(value, dict) else None
    if not isinstance(response, dict):
        return data
    response[_NAME] = previous
    return b" " * data.startswith(b" ") + orjson.dumps(value)
