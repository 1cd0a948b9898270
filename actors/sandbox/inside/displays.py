"""Displays of interpreters as events of the protocol. What user code says they are is checked and cut to size."""

import binascii

from .frames import MOST_JSON_BYTES, decode, encode
from .refusals import BadFrame, Refused
from .talks import Broken, number_in, with_length

MOST_PICTURE_BYTES = 16 * 1024 * 1024
PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"})
_TEXTS = frozenset({"text/plain", "text/html", "text/markdown", "text/latex", "image/svg+xml"})
_JSON = "application/json"
_MOST_FORMS = 16
_MOST_LETTERS = 20_000
_MOST_NUMBER = 2**63 - 1


def event_of(payload: bytes) -> bytes:
    """An event's JSON, from what a `DISPLAY` has behind its number."""
    forms: dict[str, object] = {}
    at = 0
    for _ in range(_MOST_FORMS):
        if at >= len(payload):
            break
        start = at + 1 + payload[at]
        mime = payload[at + 1 : start].decode("ascii", "replace")
        data, at = with_length(payload, start)
        _add(forms, mime, data)
    try:
        event = encode({"event": "display", "data": forms})
    except Refused:
        event = b""
    if event and len(event) <= MOST_JSON_BYTES:
        return event
    text = str(forms.get("text/plain", ""))
    text = text[:_MOST_LETTERS] + "… (what was displayed is too large)"
    return encode({"event": "display", "data": {"text/plain": text}})


def picture_of(payload: bytes) -> "tuple[int, str]":
    """Size and media type, from what a `PICTURE` has behind its number."""
    size, mime = number_in(payload)
    name = mime.decode("ascii", "replace")
    if not 0 < size <= MOST_PICTURE_BYTES or name not in PICTURES:
        raise Broken
    return size, name


def _add(forms: "dict[str, object]", mime: str, data: bytes) -> None:
    if mime in _TEXTS:
        forms[mime] = data.decode("utf-8", "replace")
    elif mime in PICTURES:
        forms[mime] = binascii.b2a_base64(data, newline=False).decode("ascii")
    elif mime == _JSON:
        try:
            # Any JSON, where `decode` takes objects only.
            value = decode(b'{"it":' + data + b"}").get("it")
        except BadFrame:
            return
        if _has_small_numbers(value):
            forms[mime] = value


def _has_small_numbers(value: object) -> bool:
    """Python's JSON has whole numbers of any length, and others' has not: the host would take the frame for broken."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, int) and abs(one) > _MOST_NUMBER:
            return False
        if isinstance(one, dict):
            pending += one.values()
        elif isinstance(one, list):
            pending += one
    return True
