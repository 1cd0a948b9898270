"""Where connections of the host come from: a listening socket handed in, a socket to dial, or one that brings each."""

import _socket
import os
import select
import sys
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Door(Protocol):
        """`waiting` is how many threads shall wait in `enter` at any time."""

        waiting: int

        def enter(self) -> _socket.socket:
            """Wait for the next connection. `OSError`: the door is broken for good."""
            ...


_RETRY_S = 0.02
_LONGEST_RETRY_S = 1.0
_BROKEN = {9, 22, 88}  # EBADF, EINVAL, ENOTSOCK


class ListeningDoor:
    """The sandbox has the socket as a descriptor only: there is no path to it inside."""

    waiting = 1

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        self._socket.setblocking(True)

    def enter(self) -> _socket.socket:
        while True:
            try:
                fd, _ = self._socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - what socket.accept calls
            except OSError as exc:
                if exc.errno in _BROKEN:
                    raise
                # Out of descriptors or memory, for now.
                sleep(_RETRY_S)
                continue
            return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)


class DialledDoor:
    """Offers itself on several connections; the host speaks first on the one it wants to use."""

    waiting = 4

    def __init__(self, path: str) -> None:
        self._path = path

    def enter(self) -> _socket.socket:
        pause_s = _RETRY_S
        while True:
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
                poll = select.poll()
                poll.register(connection.fileno(), select.POLLIN)
                poll.poll()
                if connection.recv(1, _socket.MSG_PEEK):
                    return connection
            except OSError:
                pass
            connection.close()
            sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_RETRY_S)


class PassedDoor:
    """The host hands each connection in over one socket, where it can hand in nothing else later."""

    waiting = 1

    def __init__(self, fd: int) -> None:
        own_fd = os.dup(fd)
        null_fd = os.open("/dev/null", os.O_RDWR)
        # It may have come as standard input, which programs must not find it on.
        os.dup2(null_fd, fd)
        os.close(null_fd)
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, own_fd)
        self._socket.setblocking(True)

    def enter(self) -> _socket.socket:
        while True:
            # One byte comes with each connection, so that no read takes two.
            byte, ancillary, _, _ = self._socket.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
            for _level, _kind, content in ancillary:
                fd = int.from_bytes(content[:4], sys.byteorder)
                os.set_inheritable(fd, False)
                return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
            if not byte:
                raise OSError(9, "the host has closed its end")
