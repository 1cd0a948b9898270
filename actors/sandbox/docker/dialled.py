"""A door for sandboxes that can only dial out: pairs each client with a connection the supervisor offers."""

import asyncio
import os
import socket
import struct
from collections import deque
from contextlib import suppress
from pathlib import Path

from actors.sandbox.containers.entry import check_socket_paths
from actors.sandbox.docker.splice import Splice

_MOST_OFFERS = 16
_MOST_CLIENTS = 160
"""A supervisor serves 128. Each may have 2 MiB under way here, and the sandbox decides for how long."""
_CLIENT_PATIENCE_S = 10.0
_DIALS_PER_SECOND = 500
"""What a sandbox may make this process do. A supervisor dials once for each connection a client opens."""
_HALF_OPEN_LOOK_S = 5.0
_CREDENTIALS = struct.Struct("3i")


class DialledDoor:
    """Clients come to `door`; the sandbox sees `dial` and nothing else, and everything that dials is held hostile.

    Offers beyond the bound wait in the kernel's queue, unaccepted, so a flood costs the sandbox and not this process.
    """

    def __init__(self, door: Path, dial: Path) -> None:
        check_socket_paths(door, dial)
        self._paths = door, dial
        self._clients: socket.socket | None = None
        self._dials: socket.socket | None = None
        self._offers: deque[socket.socket] = deque()
        self._waiting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._splices: set[Splice] = set()
        self._only_pid: int | None = None
        self._is_trusting = False
        self._are_dials_heard = self._are_clients_heard = False
        self._dialled = 0
        self._second: asyncio.TimerHandle | None = None
        self._half_open_look: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Start to listen. Who may reach `dial` is settled by the folder above it: inside, any user id may be in use."""
        self._loop = asyncio.get_running_loop()
        door, dial = self._paths
        self._clients = _listen(door, 0o600, _MOST_CLIENTS)
        self._dials = _listen(dial, 0o666, _MOST_OFFERS)
        self._look_for_half_open()
        self._hear()

    def trust(self, pid: int | None) -> None:
        """Pair clients from now on, with offers of this process alone. None: any process of the sandbox may offer."""
        self._only_pid, self._is_trusting = pid, True
        self._hear()

    @property
    def path(self) -> Path:
        """Where clients come to."""
        return self._paths[0]

    @property
    def offers(self) -> int:
        return len(self._offers)

    @property
    def splices(self) -> int:
        return len(self._splices)

    def close(self) -> None:
        """Close every connection, stop listening and remove both sockets."""
        for timer in (self._second, self._half_open_look, *self._waiting.values()):
            if timer:
                timer.cancel()
        self._is_trusting = False
        self._hear()
        for splice in list(self._splices):
            splice.close()
        for offer in self._offers:
            self._loop.remove_reader(offer.fileno())
        for each in (self._clients, self._dials, *self._offers, *self._waiting):
            if each:
                each.close()
        self._clients = self._dials = None
        self._offers.clear()
        self._waiting.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _hear(self) -> None:
        """Listen to exactly those sockets from which one more may come now."""
        are_dials_wanted = self._is_trusting and len(self._offers) < _MOST_OFFERS and self._dialled < _DIALS_PER_SECOND
        if self._dials and are_dials_wanted != self._are_dials_heard:
            self._are_dials_heard = are_dials_wanted
            if are_dials_wanted:
                self._loop.add_reader(self._dials.fileno(), self._accept_dial)
            else:
                self._loop.remove_reader(self._dials.fileno())
        are_clients_wanted = self._is_trusting and len(self._waiting) + len(self._splices) < _MOST_CLIENTS
        if self._clients and are_clients_wanted != self._are_clients_heard:
            self._are_clients_heard = are_clients_wanted
            if are_clients_wanted:
                self._loop.add_reader(self._clients.fileno(), self._accept_client)
            else:
                self._loop.remove_reader(self._clients.fileno())

    def _accept_dial(self) -> None:
        offer = _accept(self._dials)
        self._dialled += 1
        if self._second is None:
            self._second = self._loop.call_later(1.0, self._next_second)
        if offer is None:
            pass
        elif self._only_pid not in {None, _pid_of_peer(offer)}:
            offer.close()
        elif self._waiting:
            client, timer = next(iter(self._waiting.items()))
            del self._waiting[client]
            timer.cancel()
            self._join(client, offer)
        else:
            self._offers.append(offer)
            self._loop.add_reader(offer.fileno(), self._withdraw, offer)
        self._hear()

    def _withdraw(self, offer: socket.socket) -> None:
        """An offer that closes, or that speaks before it was asked, is none."""
        self._loop.remove_reader(offer.fileno())
        self._offers.remove(offer)
        offer.close()
        self._hear()

    def _next_second(self) -> None:
        self._dialled, self._second = 0, None
        self._hear()

    def _accept_client(self) -> None:
        client = _accept(self._clients)
        if client is None:
            return
        if self._offers:
            offer = self._offers.popleft()
            self._loop.remove_reader(offer.fileno())
            self._join(client, offer)
        else:
            self._waiting[client] = self._loop.call_later(_CLIENT_PATIENCE_S, self._send_away, client)
        self._hear()

    def _send_away(self, client: socket.socket) -> None:
        del self._waiting[client]
        client.close()
        self._hear()

    def _join(self, client: socket.socket, offer: socket.socket) -> None:
        self._splices.add(Splice(client, offer, self._part))

    def _part(self, splice: Splice) -> None:
        self._splices.discard(splice)
        self._hear()

    def _look_for_half_open(self) -> None:
        for splice in list(self._splices):
            if splice.is_half_open:
                splice.drop_if_hung_up()
        self._half_open_look = self._loop.call_later(_HALF_OPEN_LOOK_S, self._look_for_half_open)


def _listen(path: Path, mode: int, backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(os.fspath(path))
        path.chmod(mode)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def _accept(listener: socket.socket | None) -> socket.socket | None:
    """None: whoever knocked is gone, or this process has no descriptor left for it."""
    with suppress(OSError):
        if listener:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            return accepted
    return None


def _pid_of_peer(one: socket.socket) -> int:
    """The process that dialled, as the kernel knows it: a program inside cannot pretend."""
    pid, _, _ = _CREDENTIALS.unpack(one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid)
