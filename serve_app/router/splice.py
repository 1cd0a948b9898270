"""Change one member of a JSON object in its own bytes, so that everything else stays as the client wrote it."""

import re
from typing import Any

import orjson

# One JSON token: a string, a bracket, or the bytes between. Escapes inside strings are stepped over as a whole.
_STRING_VALUE = re.compile(rb'\s*+:\s*+("(?:[^"\\]++|\\.)*+")', re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^\s"{}\[\],:]++', re.DOTALL)


def with_member(body: bytes, name: str, value: Any) -> bytes:
    """`body`, a JSON object that has the member `name` at its top level, with another value for it.

    Where a name stands more than once every one is set: parsers differ in which they believe.
    """
    new = orjson.dumps(value)
    spans = _spans(body, name)
    for start, end in reversed(spans):
        body = body[:start] + new + body[end:]
    return body


def with_new_member(body: bytes, name: str, value: Any) -> bytes:
    """`body`, a JSON object without the member `name`, with it behind the last one."""
    end = body.rindex(b"}")
    comma = b"" if body[:end].strip() == b"{" else b","
    return body[:end] + comma + orjson.dumps(name) + b":" + orjson.dumps(value) + body[end:]


def _spans(body: bytes, name: str) -> list[tuple[int, int]]:
    """Where the values of the top-level member `name` stand."""
    quoted = b'"' + name.encode() + b'"'
    # A name may be written with escapes, which for ASCII all begin so. Without them it stands there as it is, and where
    # it stands once that is the place, whatever surrounds it: the hot path reads no further.
    stands_once = b"\\u00" not in body and body.count(quoted) == 1
    if stands_once and (value := _STRING_VALUE.match(body, body.index(quoted) + len(quoted))):
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
