"""Two connections made one: bytes both ways, with half-close, and never more in memory than one piece a direction."""

import _socket
import select

_PIECE_BYTES = 256 * 1024


class _Direction:
    """Bytes from one socket on their way to another one."""

    def __init__(self, source: _socket.socket, target: _socket.socket, first: bytes = b"") -> None:
        self.source = source
        self.target = target
        self._memory = memoryview(bytearray(_PIECE_BYTES))
        self.waiting = memoryview(first)
        self.is_read_out = False
        self.is_over = False

    def move(self) -> None:
        """As much as goes at once. `OSError`: one of the two is broken."""
        if not self.waiting and not self.is_read_out:
            try:
                size = self.source.recv_into(self._memory, 0, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.is_read_out = size == 0
            self.waiting = self._memory[:size]
        if self.waiting:
            try:
                self.waiting = self.waiting[self.target.send(self.waiting, _socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                return
        if self.is_read_out and not self.waiting and not self.is_over:
            self.is_over = True
            self.target.shutdown(_socket.SHUT_WR)


def join(left: _socket.socket, right: _socket.socket, first: bytes = b"") -> None:
    """Until both sides have said all they had to say, or one is broken. `first` is what the left one said already."""
    directions = (_Direction(left, right, first), _Direction(right, left))
    while not all(direction.is_over for direction in directions):
        poll = select.poll()
        interests: dict[int, int] = {}
        for one in directions:
            if one.is_over:
                continue
            fd, event = (one.target.fileno(), select.POLLOUT) if one.waiting else (one.source.fileno(), select.POLLIN)
            interests[fd] = interests.get(fd, 0) | event
        if directions[0].is_over:
            # It may still listen. Or it is gone, and nobody is left for whom to wait.
            interests.setdefault(left.fileno(), 0)
        for fd, events in interests.items():
            poll.register(fd, events)
        try:
            for fd, events in poll.poll():
                if events & (select.POLLERR | select.POLLNVAL):
                    return
                if events & select.POLLHUP and fd == left.fileno() and directions[0].is_over:
                    return
            for direction in directions:
                direction.move()
        except OSError:
            return
