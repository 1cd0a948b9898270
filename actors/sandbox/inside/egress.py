"""The sandbox's way out: programs connect to a port of ours, and each is given one of the connections the host offers."""

import _socket
import _thread
import os
import select
from time import monotonic, sleep

from . import relay
from .frames import RESULT, encode
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .inside import Inside

_PATIENCE_S = 10.0
_MOST_WAITING = 128
_BACKLOG = 64
_PAUSE_S = 0.01


class _Offer:
    """A connection of the host that waits for somebody to need it."""

    def __init__(self) -> None:
        self.taker: _socket.socket | None = None
        self.wake_fd, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def give(self, taker: _socket.socket) -> None:
        self.taker = taker
        os.write(self._wake_end, b".")

    def close(self) -> None:
        os.close(self.wake_fd)
        os.close(self._wake_end)


class Outlet:
    """Brings together who wants out and what the host offers; whoever came first is first."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._takers: list[tuple[float, _socket.socket]] = []
        self._offers: list[_Offer] = []

    def listen(self, port: int) -> None:
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
        _thread.start_new_thread(self._accept, (listener,))

    def take_offer(self) -> _Offer:
        offer = _Offer()
        with self._lock:
            self._offers.append(offer)
            self._match()
        return offer

    def withdraw(self, offer: _Offer) -> None:
        """Whoever had been given it, and not been told, is first in line again."""
        with self._lock:
            if offer in self._offers:
                self._offers.remove(offer)
            if offer.taker is not None:
                self._takers.insert(0, (monotonic() + _PATIENCE_S, offer.taker))
                offer.taker = None
                self._match()

    def _match(self) -> None:
        while self._takers and self._offers:
            self._offers.pop(0).give(self._takers.pop(0)[1])

    def _accept(self, listener: _socket.socket) -> None:
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        while True:
            is_somebody_there = poll.poll(1000 if self._takers else None)
            self._send_away()
            if not is_somebody_there or len(self._takers) >= _MOST_WAITING:
                sleep(_PAUSE_S if is_somebody_there else 0)
                continue
            try:
                fd, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - what socket.accept calls
            except OSError:
                sleep(_PAUSE_S)  # out of descriptors, for now
                continue
            taker = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, fd)
            with self._lock:
                self._takers.append((monotonic() + _PATIENCE_S, taker))
                self._match()

    def _send_away(self) -> None:
        """Those who waited long enough."""
        with self._lock:
            while self._takers and self._takers[0][0] < monotonic():
                self._takers.pop(0)[1].close()


def open_outlet(inside: "Inside") -> None:
    """Called once, at the start of a sandbox that may reach out."""
    if inside.egress_port is not None:
        inside.keep(Outlet).listen(inside.egress_port)


def offer(channel: "Channel", request: "dict[str, object]") -> "dict[str, object] | None":  # noqa: ARG001 - every operation has it
    if channel.inside.egress_port is None:
        raise Refused("denied", "This sandbox has no way out.")
    outlet = channel.inside.keep(Outlet)
    mine = outlet.take_offer()
    try:
        if not _wait(channel, mine):
            return {"raw": False}
        taker = mine.taker
        assert taker is not None  # noqa: S101 - for the type checker
        channel.send(RESULT, encode({"raw": True}))
        mine.taker = None
    finally:
        outlet.withdraw(mine)
        mine.close()
    try:
        relay.join(channel.connection, taker, channel.take_raw())
    finally:
        taker.close()
    return None


def _wait(channel: "Channel", mine: _Offer) -> bool:
    """Until somebody takes the offer. False: the host took it back."""
    poll = select.poll()
    poll.register(mine.wake_fd, select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    while mine.taker is None:
        if channel.is_cancelled():
            return False
        poll.poll()
    return True
