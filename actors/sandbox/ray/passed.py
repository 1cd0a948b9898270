"""A door for sandboxes that have one socket of the host's and no way to another: each client is handed in over it."""

import asyncio
import os
import socket
from collections import deque
from contextlib import suppress
from pathlib import Path

from actors.sandbox.containers.entry import check_socket_paths

_BACKLOG = 128
_MOST_WAITING = 64


class PassedDoor:
    """Clients come to `path`; each connection itself goes inside, so nothing of what it carries passes here."""

    def __init__(self, path: Path) -> None:
        check_socket_paths(path)
        self.path = path
        self._listener: socket.socket | None = None
        self._inside: socket.socket | None = None
        self._waiting: deque[socket.socket] = deque()
        self._is_hearing = self._is_handing = False

    def open(self) -> socket.socket:
        """Start to listen. Returns the sandbox's end of the socket, for its supervisor; whoever starts that closes it."""
        self._loop = asyncio.get_running_loop()
        self._inside, theirs = socket.socketpair()
        self._inside.setblocking(False)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        try:
            self._listener.bind(os.fspath(self.path))
            self.path.chmod(0o600)
            self._listener.listen(_BACKLOG)
        except OSError:
            theirs.close()
            self.close()
            raise
        self._hear()
        return theirs

    def close(self) -> None:
        listener, inside = self._listener, self._inside
        self._listener = self._inside = None
        if listener is not None:
            if self._is_hearing:
                self._loop.remove_reader(listener.fileno())
            listener.close()
        if inside is not None:
            if self._is_handing:
                self._loop.remove_writer(inside.fileno())
            inside.close()
        self._is_hearing = self._is_handing = False
        for client in self._waiting:
            client.close()
        self._waiting.clear()
        self.path.unlink(missing_ok=True)

    def _hear(self) -> None:
        is_wanted = len(self._waiting) < _MOST_WAITING
        if self._listener is not None and is_wanted != self._is_hearing:
            self._is_hearing = is_wanted
            if is_wanted:
                self._loop.add_reader(self._listener.fileno(), self._accept)
            else:
                self._loop.remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        if self._listener is None:
            return
        with suppress(OSError):
            client, _ = self._listener.accept()
            self._waiting.append(client)
            self._hand_in()
        self._hear()

    def _hand_in(self) -> None:
        """As many as the socket takes; the rest when it takes more. A supervisor that reads none has none to serve."""
        while self._waiting and self._inside is not None:
            try:
                socket.send_fds(self._inside, [b"\0"], [self._waiting[0].fileno()])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self._waiting.popleft().close()
        if self._inside is not None and bool(self._waiting) != self._is_handing:
            self._is_handing = bool(self._waiting)
            if self._is_handing:
                self._loop.add_writer(self._inside.fileno(), self._hand_in)
            else:
                self._loop.remove_writer(self._inside.fileno())
        self._hear()
