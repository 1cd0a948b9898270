"""One connection of the host, as operations see it: frames in and out, waiting for them or not."""

import _socket
import select
from time import monotonic

from .frames import (
    CONTROL,
    DATA,
    EVENT,
    HEADER_BYTES,
    MOST_PAYLOAD_BYTES,
    decode,
    encode,
    header,
    parse_header,
)
from .refusals import BadFrame, Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .inside import Inside

    Payload = bytes | bytearray | memoryview

_READ_BYTES = 64 * 1024
_JOIN_BYTES = 16 * 1024
"""A payload up to this size is cheaper copied behind its header than sent as a piece of its own."""


class Channel:
    """Not for two threads at a time. Everything raises `Gone` when the host has closed, `BadFrame` when it sends none.

    An operation either waits (`send`, `receive`), or serves several things in a loop of its own and never waits here
    (`post`, `flush_now`, `receive_now`); then it looks at `has_buffered` before it polls `fileno`.
    """

    def __init__(self, connection: _socket.socket, inside: "Inside") -> None:
        self.inside = inside
        self.connection = connection
        self._received = bytearray()
        self._unsent: list[memoryview] = []

    def fileno(self) -> int:
        return self.connection.fileno()

    def has_buffered(self) -> bool:
        """A whole frame has been read already, so `poll` would not tell of it."""
        return self._length() is not None

    @property
    def has_unsent(self) -> bool:
        """What `post` was given last is not all sent, and its memory not free yet."""
        return bool(self._unsent)

    def receive(self, timeout_s: "float | None" = None) -> "tuple[int, bytes]":
        """The next frame's kind and payload. `TimeoutError` when it is not there in time."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while (frame := self._take()) is None:
            if deadline is not None:
                self._wait(deadline)
            self._fill(0)
        return frame

    def receive_now(self) -> "tuple[int, bytes] | None":
        """The same without waiting; None while it is not all there."""
        frame = self._take()
        if frame is None and self._fill(_socket.MSG_DONTWAIT):
            frame = self._take()
        return frame

    def is_cancelled(self) -> bool:
        """Whether the host has said `cancel`; for operations that take long and expect nothing else."""
        while (frame := self.receive_now()) is not None:
            kind, payload = frame
            if kind != CONTROL:
                raise BadFrame("only CONTROL may come while this operation runs")
            if decode(payload).get("do") == "cancel":
                return True
        return False

    def send(self, kind: int, payload: "Payload" = b"") -> None:
        self.post(kind, payload)
        self.flush()

    def event(self, event: "dict[str, object]") -> None:
        self.send(EVENT, encode(event))

    def data(self, payload: "Payload") -> None:
        """Any length; it becomes as many frames as it needs."""
        self._send_all(DATA, payload)

    def post(self, kind: int, payload: "Payload" = b"") -> None:
        """Send what can be sent at once and keep the rest for `flush_now`. Who posts again before that lets it grow."""
        if len(payload) <= _JOIN_BYTES:
            self._unsent.append(memoryview(header(kind, len(payload)) + payload))
        else:
            self._unsent += (memoryview(header(kind, len(payload))), memoryview(payload))
        self._flush(_socket.MSG_DONTWAIT)

    def flush(self) -> None:
        """Wait until everything is sent."""
        while self._unsent:
            self._flush(0)

    def flush_now(self) -> None:
        if self._unsent:
            self._flush(_socket.MSG_DONTWAIT)

    def take_raw(self) -> bytes:
        """What came behind the last frame, when the connection stops carrying frames."""
        rest = bytes(self._received)
        self._received.clear()
        return rest

    def _send_all(self, kind: int, payload: "Payload") -> None:
        view = memoryview(payload)
        for start in range(0, len(view), MOST_PAYLOAD_BYTES):
            self.send(kind, view[start : start + MOST_PAYLOAD_BYTES])

    def _flush(self, flags: int) -> None:
        try:
            sent = self.connection.sendmsg(self._unsent, (), flags)
        except BlockingIOError:
            return
        except OSError as exc:
            raise Gone from exc
        while self._unsent and sent >= len(self._unsent[0]):
            sent -= len(self._unsent.pop(0))
        if sent:
            self._unsent[0] = self._unsent[0][sent:]

    def _length(self) -> "int | None":
        """The length of the first frame, when it is all there."""
        if len(self._received) < HEADER_BYTES:
            return None
        _, length = parse_header(self._received)
        return length if len(self._received) >= HEADER_BYTES + length else None

    def _take(self) -> "tuple[int, bytes] | None":
        received = self._received
        if len(received) < HEADER_BYTES:
            return None
        kind, length = parse_header(received)
        end = HEADER_BYTES + length
        if len(received) < end:
            return None
        with memoryview(received) as view:
            payload = bytes(view[HEADER_BYTES:end])
        del received[:end]
        return kind, payload

    def _fill(self, flags: int) -> bool:
        """Read once. False: nothing was there."""
        wanted = _READ_BYTES
        if len(self._received) >= HEADER_BYTES:
            wanted = max(wanted, HEADER_BYTES + parse_header(self._received)[1] - len(self._received))
        try:
            chunk = self.connection.recv(wanted, flags)
        except BlockingIOError:
            return False
        except OSError as exc:
            raise Gone from exc
        if not chunk:
            raise Gone
        self._received += chunk
        return True

    def _wait(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
            raise TimeoutError
