"""What a double can be told to answer: faithful streams, and every way a provider can fail."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypedDict, Unpack

STREAMS = Path(__file__).parent.parent / "fixtures" / "streams"
# Pieces of a generated body: small enough that a reader who stops is noticed at once.
PIECE_BYTES = 64 * 1024


class Framing(Enum):
    """How the receiver learns where the body ends."""

    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


class Ending(Enum):
    """What follows the last byte of the body."""

    CLEAN = auto()
    CUT = auto()  # the connection is closed; with CHUNKED the closing chunk is missing
    RESET = auto()  # the same with a TCP reset
    STALL = auto()  # silence until the caller leaves


Split = Callable[[bytes], Iterator[bytes]]


def whole(body: bytes) -> Iterator[bytes]:
    yield body


def lines(body: bytes) -> Iterator[bytes]:
    yield from body.splitlines(keepends=True)


def events(body: bytes) -> Iterator[bytes]:
    """One piece for each event of a stream whose lines end in a bare LF."""
    yield from (piece + b"\n\n" for piece in body.removesuffix(b"\n\n").split(b"\n\n"))


def every(size_bytes: int) -> Split:
    return lambda body: (body[start : start + size_bytes] for start in range(0, len(body), size_bytes))


def at(*points: int) -> Split:
    """Cut before each of these offsets."""
    return lambda body: (
        body[start:end] for start, end in zip((0, *points), (*points, len(body)), strict=True) if start < end
    )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What goes back for one request. `headers` win over what the framing would say."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = Framing.LENGTH
    ending: Ending = Ending.CLEAN
    delay_s: float = 0.0  # between pieces
    first_byte_s: float = 0.0  # before the status line

    def pieces(self) -> Iterator[bytes]:
        yield b""

    def head(self) -> bytes:
        """Reads a LENGTH body whole to count it; a generated one should be CHUNKED or declare its own length."""
        headers = {"date": "Thu, 01 Jan 2026 00:00:00 GMT"}
        match self.framing:
            case Framing.LENGTH if not any(name.lower() == "content-length" for name in self.headers):
                headers["content-length"] = str(sum(map(len, self.pieces())))
            case Framing.CHUNKED:
                headers["transfer-encoding"] = "chunked"
            case Framing.CLOSE:
                headers["connection"] = "close"
        headers |= {name.lower(): value for name, value in self.headers.items()}
        phrase = next((known.phrase for known in HTTPStatus if known == self.status), "Overloaded")
        listed = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} {phrase}\r\n{listed}\r\n".encode("latin-1")


@dataclass(frozen=True)
class Body(Answer):
    """These bytes. `until` keeps only what stands before that offset, or before those bytes."""

    body: bytes = b""
    content_type: str = field(default="application/json", kw_only=True)
    split: Split = field(default=whole, kw_only=True)
    until: int | bytes | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.until, bytes):
            assert self.until in self.body, f"{self.until!r} does not occur in the body"
        object.__setattr__(self, "headers", {"content-type": self.content_type, **self.headers})

    def pieces(self) -> Iterator[bytes]:
        match self.until:
            case None:
                kept = self.body
            case int():
                kept = self.body[: self.until]
            case bytes():
                kept = self.body[: self.body.index(self.until)]
        yield from self.split(kept)


class Options(TypedDict, total=False):
    """What the functions below hand on to `Body`."""

    status: int
    headers: Mapping[str, str]
    framing: Framing
    ending: Ending
    delay_s: float
    first_byte_s: float
    content_type: str
    split: Split
    until: int | bytes | None


def Json(data: Any, **more: Unpack[Options]) -> Body:  # noqa: N802 - reads as one of the answers
    """A whole JSON answer, written the way vendors do: no spaces, unescaped Unicode."""
    return Body(json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode(), **more)


def Refusal(status: int, data: Any = None, *, retry_after: str | None = None, **headers: str) -> Body:  # noqa: N802 - the same
    """An error status (429, 5xx, 529). Underscores in the names of `headers` stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if retry_after is not None:
        named["retry-after"] = retry_after
    return Json({"error": {"message": "scripted", "type": "scripted"}} if data is None else data,
                status=status, headers=named)  # fmt: skip


def Sse(body: bytes, **more: Unpack[Options]) -> Body:  # noqa: N802 - the same
    """A stream given as its bytes."""
    usual: Options = {"content_type": "text/event-stream", "framing": Framing.CHUNKED}
    return Body(body, **(usual | more))


def Fixture(name: str, **more: Unpack[Options]) -> Body:  # noqa: N802 - the same
    """A file below tests/fixtures/streams, byte for byte: `.sse` is streamed, `.json` is sent whole."""
    path = STREAMS / name
    return (Sse if path.suffix == ".sse" else Body)(path.read_bytes(), **more)


@dataclass(frozen=True)
class HangUp(Answer):
    """The request is read, then the connection closes before the first byte of an answer."""

    ending: Ending = field(default=Ending.CUT, kw_only=True)

    def head(self) -> bytes:
        return b""


@dataclass(frozen=True)
class Silence(HangUp):
    """The request is read and never answered."""

    ending: Ending = field(default=Ending.STALL, kw_only=True)


@dataclass(frozen=True)
class Garbage(HangUp):
    """Bytes that are not HTTP."""

    noise: bytes = bytes(range(256)) * 4

    def pieces(self) -> Iterator[bytes]:
        yield self.noise


@dataclass(frozen=True)
class Endless(Answer):
    """One piece again and again until the caller leaves; `times` bounds it."""

    piece: bytes = b'data: {"choices":[{"index":0,"delta":{"content":"and so on "}}]}\n\n'
    times: int | None = None
    before: bytes = b""
    after: bytes = b""
    framing: Framing = field(default=Framing.CHUNKED, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"}, kw_only=True)

    def pieces(self) -> Iterator[bytes]:
        yield self.before
        sent = 0
        while self.times is None or sent < self.times:
            yield self.piece
            sent += 1
        yield self.after


def HugeLine(size_bytes: int = 40_000_000) -> Endless:  # noqa: N802 - reads as one of the answers
    """A stream whose one event is this long."""
    return Endless(
        b"x" * PIECE_BYTES,
        times=-(-size_bytes // PIECE_BYTES),
        before=b'data: {"choices":[{"index":0,"delta":{"content":"',
        after=b'"}}]}\n\ndata: [DONE]\n\n',
    )
