"""Frames of the protocol: their kinds and bounds, and JSON as their payload."""

import _json
import _struct

from .refusals import BadFrame, Refused

HELLO, REQUEST, DATA, DATA2, END, EVENT, RESULT, ERROR, CONTROL = range(1, 10)
HEADER_BYTES = 5
MOST_PAYLOAD_BYTES = 1024 * 1024
MOST_JSON_BYTES = 256 * 1024

_MOST_BYTES = {HELLO: MOST_JSON_BYTES, REQUEST: MOST_JSON_BYTES, CONTROL: MOST_JSON_BYTES}
_MOST_BYTES |= {DATA: MOST_PAYLOAD_BYTES, END: 0}
_HEADER = _struct.Struct(">IB")


def header(kind: int, length: int) -> bytes:
    return _HEADER.pack(length, kind)


def parse_header(start: "bytes | bytearray") -> "tuple[int, int]":
    """Kind and length, from the first bytes of what the host sent.

    Raises:
        BadFrame: the host may not send such a frame.
    """
    length, kind = _HEADER.unpack_from(start)
    most = _MOST_BYTES.get(kind)
    if most is None:
        raise BadFrame(f"kind {kind} is none the host may send")
    if length > most:
        raise BadFrame(f"a frame of kind {kind} has at most {most} bytes, not {length}")
    return kind, length


class _Rules:
    """What `json.JSONDecoder` would hand to the scanner written in C, without importing `json` and its `re`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: "dict[str, str]" = {}  # noqa: RUF012 - the scanner clears and never shares it

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is no JSON")


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} cannot be sent")


_scan = _json.make_scanner(_Rules())  # type: ignore[arg-type]  # it takes whatever has these attributes
_encode = _json.make_encoder(None, _unknown, _json.encode_basestring_ascii, None, ":", ",", False, False, False)


def encode(value: "dict[str, object]") -> bytes:
    """JSON in ASCII: what is no UTF-8 in a name is written as `\\udcXX`.

    Raises:
        Refused: it is longer than a frame may be.
    """
    payload = "".join(_encode(value, 0)).encode("ascii")
    if len(payload) > MOST_JSON_BYTES:
        raise Refused("failed", f"The answer is longer than {MOST_JSON_BYTES} bytes.")
    return payload


def decode(payload: "bytes | bytearray | memoryview") -> "dict[str, object]":
    """Raises `BadFrame` when it is no JSON object."""
    try:
        text = str(payload, "utf-8").strip(" \t\r\n")
        value, end = _scan(text, 0)
    except (ValueError, StopIteration, RecursionError, SystemError) as exc:
        # SystemError: the scanner found a fault and could not tell, since nobody has imported `json`.
        raise BadFrame("a payload is no JSON") from exc
    if end != len(text) or not isinstance(value, dict):
        raise BadFrame("a payload is no JSON object")
    return value
