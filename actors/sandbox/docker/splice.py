"""Carries bytes both ways between two sockets of this process, with half-close and back-pressure."""

import asyncio
import select
import socket
from collections.abc import Callable

_CHUNK_BYTES = 1024 * 1024
_buffer = memoryview(bytearray(_CHUNK_BYTES))
"""Of all splices of a process: nothing stays in it between two callbacks of the loop, and a splice costs no memory."""


class Splice:
    """`done` is called once, when both sockets are closed. Must be made on the loop's own thread."""

    def __init__(self, one: socket.socket, other: socket.socket, done: Callable[["Splice"], None]) -> None:
        self._done = done
        self._sockets = (one, other)
        self._flows = (_Flow(one, other, self._flow_ended), _Flow(other, one, self._flow_ended))
        self._is_closed = False
        for flow in self._flows:
            flow.start()

    @property
    def is_half_open(self) -> bool:
        """One direction has ended and the other has not."""
        return any(flow.has_ended for flow in self._flows)

    def drop_if_hung_up(self) -> None:
        """End it when one side is wholly gone. A loop hears of that only while it reads."""
        if any(_has_hung_up(each) for each in self._sockets):
            self.close()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for flow in self._flows:
            flow.stop()
        for each in self._sockets:
            each.close()
        self._done(self)

    def _flow_ended(self, flow: "_Flow", *, is_broken: bool) -> None:
        # Who has hung up altogether hears no answer any more, so the other direction is of no use either.
        if is_broken or all(each.has_ended for each in self._flows) or _has_hung_up(flow.source):
            self.close()


class _Flow:
    """Bytes in one direction. Nothing more is read before everything read was handed on."""

    def __init__(self, source: socket.socket, sink: socket.socket, ended: Callable[..., None]) -> None:
        self.source = source
        self.has_ended = False
        self._sink = sink
        self._ended = ended
        self._rest = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        self._is_reading = self._is_writing = False

    def start(self) -> None:
        self._loop.add_reader(self.source.fileno(), self._read)
        self._is_reading = True

    def stop(self) -> None:
        if self._is_reading:
            self._loop.remove_reader(self.source.fileno())
        if self._is_writing:
            self._loop.remove_writer(self._sink.fileno())
        self._is_reading = self._is_writing = False
        self._rest = memoryview(b"")

    def _read(self) -> None:
        try:
            count = self.source.recv_into(_buffer)
            if not count:
                self.stop()
                self.has_ended = True
                self._sink.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._ended(self, is_broken=True)
            return
        if not count:
            self._ended(self, is_broken=False)
        elif (sent := self._send(_buffer[:count])) is not None and sent < count:
            self._rest = memoryview(bytes(_buffer[sent:count]))
            self._loop.remove_reader(self.source.fileno())
            self._loop.add_writer(self._sink.fileno(), self._write)
            self._is_reading, self._is_writing = False, True

    def _write(self) -> None:
        if (sent := self._send(self._rest)) is None:
            return
        self._rest = self._rest[sent:]
        if not self._rest:
            self._loop.remove_writer(self._sink.fileno())
            self._is_writing = False
            self.start()

    def _send(self, data: memoryview) -> int | None:
        """None: the sink is broken and everything was closed."""
        try:
            return self._sink.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._ended(self, is_broken=True)
            return None


def _has_hung_up(one: socket.socket) -> bool:
    """Its other end is closed in both directions."""
    poll = select.poll()
    poll.register(one, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
