"""Frames of the sandbox protocol (docs/sandbox-protocol.md): their kinds, their bounds, and the JSON in them."""

import json
import struct
from collections.abc import Mapping
from typing import Final

import orjson

from serve_app.core.errors import InvalidRequestError, SandboxProtocolError

VERSION: Final = 1
HELLO: Final = 1
REQUEST: Final = 2
DATA: Final = 3
DATA2: Final = 4
END: Final = 5
EVENT: Final = 6
RESULT: Final = 7
ERROR: Final = 8
CONTROL: Final = 9

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
MAX_JSON_BYTES: Final = 256 * 1024
MOST_FROM_INSIDE: Final[Mapping[int, int]] = {
    DATA: MAX_PAYLOAD_BYTES,
    DATA2: MAX_PAYLOAD_BYTES,
    END: 0,
    EVENT: MAX_JSON_BYTES,
    RESULT: MAX_JSON_BYTES,
    ERROR: MAX_JSON_BYTES,
}
"""The kinds an inside may send, and how long each may be."""

HEADER: Final = struct.Struct(">IB")


def frame(kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), kind) + payload


def encode(value: Mapping[str, object]) -> bytes:
    """Raises `InvalidRequestError` when it is longer than a frame of JSON may be."""
    try:
        encoded = orjson.dumps(value)
    except TypeError:
        # A name that is no UTF-8 carries surrogates, which orjson refuses.
        encoded = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
    if len(encoded) > MAX_JSON_BYTES:
        raise InvalidRequestError(
            f"The request is longer than {MAX_JSON_BYTES} bytes. Put long text into a file of the sandbox first.",
            max_bytes=MAX_JSON_BYTES,
        )
    return encoded


def decode(payload: bytes) -> dict[str, object]:
    """Raises `SandboxProtocolError` when it is no JSON object."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        value = _decode_with_surrogates(payload)
    if not isinstance(value, dict):
        raise SandboxProtocolError("The sandbox sent JSON that is not an object.")
    return value


def _decode_with_surrogates(payload: bytes) -> object:
    """Only what has an escaped surrogate is worth a second, slower look."""
    if b"\\ud" not in payload.lower():
        raise SandboxProtocolError("The sandbox sent what is not JSON.")
    try:
        return json.loads(payload, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise SandboxProtocolError("The sandbox sent what is not JSON.") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(name)
