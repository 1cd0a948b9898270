"""Server-sent events as bytes: cut a provider's stream into whole events, and read one where that is needed.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from collections.abc import Iterator

from serve_app.core.errors import ProviderError


class EventSplitter:
    """Gives back the bytes of whole events as they came, and holds what is not whole yet.

    A stream is passed on by whole events only, so that an event of ours can follow at any point. `max_bytes` bounds what
    is held: no event may be longer.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Raises `ProviderError` for an event longer than the bound."""
        held = self._held
        if not held and chunk.endswith(b"\n\n"):
            return chunk
        # A boundary may begin in what is held: three bytes of it at most.
        seen = max(len(held) - 3, 0)
        held += chunk
        end = _last_boundary(held, seen)
        if end == 0:
            if len(held) > self._max_bytes:
                raise ProviderError("The provider sent an event that is too long.", max_bytes=self._max_bytes)
            return b""
        whole = bytes(held[:end])
        del held[:end]
        if len(held) > self._max_bytes:
            raise ProviderError("The provider sent an event that is too long.", max_bytes=self._max_bytes)
        return whole

    def rest(self) -> bytes:
        """What is left when the stream has ended: an event whose last line ends the stream is whole to many clients."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


def _last_boundary(held: bytearray, start: int) -> int:
    """Where the last whole event ends; 0 when there is none behind `start`."""
    end = 0
    for mark in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        at = held.rfind(mark, start)
        if at >= 0:
            end = max(end, at + len(mark))
    return end


def events(whole: bytes) -> Iterator[tuple[str | None, bytes]]:
    """The (name, data) of each event in `whole`; comments and empty events are left out."""
    name: str | None = None
    data: list[bytes] = []
    for line in whole.splitlines():
        if not line:
            if data:
                yield name, b"\n".join(data)
            name, data = None, []
        elif line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
    if data:
        yield name, b"\n".join(data)
