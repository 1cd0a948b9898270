"""Change one member of a JSON object in its own bytes, so that everything else stays as the client wrote it."""

import re
from typing import Any

import orjson

# One JSON token: a string, a bracket, or the bytes between. Escapes inside strings are stepped over as a whole.
_STRING_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)


def with_member(body: bytes, name: str, value: Any) -> bytes:
    """`body`, a valid JSON object, with `name` set at its top level; added behind the last member when it is not there.

    A `name` that does not stand at the top level must not stand anywhere else: true of those a checked request has.

    Where a name stands more than once every one is set: parsers differ in which they believe.
    """
    new = orjson.dumps(value)
    spans = _spans(body, name)
    if not spans:
        end = body.rindex(b"}")
        comma = b"" if body[:end].strip() == b"{" else b","
        return body[:end] + comma + orjson.dumps(name) + b":" + new + body[end:]
    for start, end in reversed(spans):
        body = body[:start] + new + body[end:]
    return body


def _spans(body: bytes, name: str) -> list[tuple[int, int]]:
    """Where the values of the top-level member `name` stand."""
    quoted = b'"' + name.encode() + b'"'
    # A name may be written with escapes, which for ASCII all begin so. Without them it stands there as it is, and where
    # it stands once that is the place, whatever surrounds it: the hot path reads no further.
    if b"\\u00" not in body:
        count = body.count(quoted)
        if count == 0:
            return []
        if count == 1 and (value := _STRING_VALUE.match(body, body.index(quoted) + len(quoted))):
            return [value.span(1)]
    depth = 0
    is_key = False
    wanted = False
    value_start: int | None = None
    spans: list[tuple[int, int]] = []
    last_end = 0
    for token in _TOKEN.finditer(body):
        first = token[0][:1]
        if depth == 1 and value_start is not None and first in b",}":
            spans.append((value_start, last_end))
            value_start = None
        match first:
            case b"{" | b"[":
                if depth == 1 and wanted:
                    value_start, wanted = token.start(), False
                depth += 1
                is_key = depth == 1
            case b"}" | b"]":
                depth -= 1
            case b"," if depth == 1:
                is_key = True
            case b":" | b",":
                pass
            case _ if depth == 1 and is_key:
                is_key = False
                wanted = token[0] == quoted or (b"\\" in token[0] and orjson.loads(token[0]) == name)
            case _ if depth == 1 and wanted:
                value_start, wanted = token.start(), False
        last_end = token.end()
    return spans
