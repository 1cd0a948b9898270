"""Server-sent events as they come over the wire (WHATWG HTML, section 9.2)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerEvent:
    """One event; `id` is None when the server gave none with it."""

    type: str
    data: str
    id: str | None


def parse(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Group lines into events. Comments are dropped, and so is an event cut off by the end of the stream."""
    kind, data, identity = "message", list[str](), None
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(kind, "\n".join(data), identity)
            kind, data, identity = "message", [], None
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                kind = value
            case "data":
                data.append(value)
            case "id":
                identity = value
            case _:
                continue
