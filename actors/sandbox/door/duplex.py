"""Raw bytes both ways: a connection that an operation turned into one of a program inside, and how two are joined."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from actors.sandbox.door.connection import Connection
from serve_app.core.errors import SandboxLostError

_CHECK_S = 1.0


class Duplex:
    """Whoever has it closes it. Reads are taken by one caller at a time, and so are writes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def read(self, timeout_s: float | None = None) -> bytes:
        """What has come, at most 1 MiB; empty when the other side has ended. Raises `TimedOutError`."""
        return await self.connection.read(timeout_s)

    async def write(self, data: bytes, timeout_s: float | None = None) -> None:
        """Returns when there is room for more.

        Raises:
            SandboxLostError: nobody is there to read it.
            TimedOutError: there was no room for so long.
        """
        if self.connection.is_closed:
            raise SandboxLostError("The connection is closed.")
        self.connection.write(data)
        await self.connection.drain(timeout_s)

    def end(self) -> None:
        """No more from us; reading goes on. Over TLS, which has no half-close here, this closes."""
        self.connection.end()

    def close(self) -> None:
        """What was written still goes out."""
        self.connection.close()

    def abort(self) -> None:
        self.connection.abort()

    async def wait_closed(self) -> None:
        await self.connection.wait_closed()


@dataclass(frozen=True)
class Spliced:
    """How many bytes went each way."""

    forth: int
    back: int


async def splice(
    one: Duplex, other: Duplex, *, idle_s: float | None = None, meter: Callable[[int], bool] | None = None
) -> Spliced:
    """Pass on bytes both ways, half-closes too, until both sides have ended; then both are closed.

    No task copies: what one connection reads is written to the other at once, and a side that does not read stops the
    other one's reading. `meter` is told of each piece, and False ends the whole; so does silence for `idle_s`.
    """
    flow = _Flow(one.connection, other.connection, meter)
    try:
        flow.begin()
        if idle_s is None:
            await flow.done
        else:
            await _until_idle(flow, idle_s)
    finally:
        one.close()
        other.close()
    return Spliced(flow.forth, flow.back)


async def _until_idle(flow: "_Flow", idle_s: float) -> None:
    seen, silent_s, step_s = -1, 0.0, min(_CHECK_S, idle_s / 4)
    while not flow.done.done() and silent_s < idle_s:
        moved = flow.forth + flow.back
        silent_s = 0.0 if moved != seen else silent_s + step_s
        seen = moved
        await asyncio.wait([flow.done], timeout=step_s)


class _Flow:
    def __init__(self, one: Connection, other: Connection, meter: Callable[[int], bool] | None) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.forth = 0
        self.back = 0
        self._one = one
        self._other = other
        self._meter = meter
        self._ended: set[Connection] = set()

    def begin(self) -> None:
        one, other = self._one, self._other
        one.couple(self._forth, lambda is_clogged: other.pause(is_paused=is_clogged), lambda: self._end(one, other))
        other.couple(self._back, lambda is_clogged: one.pause(is_paused=is_clogged), lambda: self._end(other, one))

    def _forth(self, data: bytes) -> None:
        self.forth += len(data)
        self._pass_on(self._other, data)

    def _back(self, data: bytes) -> None:
        self.back += len(data)
        self._pass_on(self._one, data)

    def _pass_on(self, target: Connection, data: bytes) -> None:
        if self._meter is not None and not self._meter(len(data)):
            self._finish()
        else:
            target.write(data)

    def _end(self, source: Connection, target: Connection) -> None:
        if source.is_closed:
            # Nothing can go back there either.
            target.close()
            self._finish()
            return
        self._ended.add(source)
        target.end()
        if len(self._ended) == 2:
            self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
