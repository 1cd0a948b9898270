"""One client's connections to one door: made when needed, kept when they ended well, never more than allowed."""

import asyncio
import select
from collections import deque
from contextlib import suppress

from actors.sandbox.door.connection import Connection
from actors.sandbox.door.dialling import Dial
from actors.sandbox.door.wire import HELLO, VERSION, encode, frame
from serve_app.core.errors import OverloadedError, SandboxLostError, TimedOutError

_MOST_IDLE = 8


class Lines:
    """Owns every connection it made, also those an operation holds; `close` ends them all."""

    def __init__(self, dial: Dial, token: str, *, most: int, answer_timeout_s: float) -> None:
        self.answer_timeout_s = answer_timeout_s
        self.is_lost = False
        """The sandbox is gone, its token void, or what it said is not the protocol."""
        self.losses = 0
        """Connections that ended and that nobody here had ended."""
        self._dial = dial
        self._most = most
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._ending: set[Connection] = set()
        self._dialling = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_closed = False
        self._hello = b""
        self.renew(token)

    @property
    def busy(self) -> int:
        """How many operations are under way."""
        return len(self._open) + self._dialling - len(self._idle)

    def renew(self, token: str) -> None:
        """The token has been replaced: connections made with the old one are of no more use."""
        self._hello = frame(HELLO, encode({"version": VERSION, "token": token}))
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def take(self) -> Connection:
        """A connection on which an operation may begin; whoever takes it gives it back.

        Raises:
            SandboxLostError: the sandbox is gone, or this client closed.
            OverloadedError: all connections have been in use for as long as an answer may take.
        """
        while True:
            if self._is_closed:
                raise SandboxLostError("This client of the sandbox is closed.")
            while self._idle:
                connection = self._idle.pop()
                if _is_fresh(connection):
                    return connection
                connection.abort()
            if len(self._open) + self._dialling < self._most:
                return await self._connect()
            await self._wait_for_room()

    def give_back(self, connection: Connection, *, ended_well: bool) -> None:
        """`ended_well`: both sides agree that the operation is over; any other connection is closed."""
        if ended_well and not self._is_closed and not connection.is_closing and len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.abort()
            self._open.discard(connection)
            if not connection.is_gone:
                self._ending.add(connection)
        self._admit_next()

    async def close(self) -> None:
        self._is_closed = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        for connection in self._open:
            connection.abort()
        await asyncio.gather(*(connection.wait_closed() for connection in self._open | self._ending))

    async def _connect(self) -> Connection:
        self._dialling += 1
        try:
            async with asyncio.timeout(self.answer_timeout_s):
                connection = await self._dial()
        except BaseException as exc:
            self._admit_next()
            if isinstance(exc, TimeoutError):
                raise TimedOutError("The sandbox takes no more connections right now.") from exc
            self.is_lost = self.is_lost or isinstance(exc, SandboxLostError)
            raise
        finally:
            self._dialling -= 1
        connection.prefix += self._hello
        connection.on_lost = self._drop
        self._open.add(connection)
        if self._is_closed:
            connection.abort()
            raise SandboxLostError("This client of the sandbox is closed.")
        return connection

    async def _wait_for_room(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self.answer_timeout_s):
                await waiter
        except TimeoutError as exc:
            raise OverloadedError(f"This sandbox has {self._most} operations under way. Wait for one to end.") from exc
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._admit_next()
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)

    def _admit_next(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _drop(self, connection: Connection) -> None:
        self.losses += connection in self._open and not self._is_closed
        self._open.discard(connection)
        self._ending.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        self._admit_next()


def _is_fresh(connection: Connection) -> bool:
    """Whether an idle one can still be used: an end, or bytes nobody asked for, may wait in the socket unseen."""
    descriptor = connection.descriptor
    if connection.is_closing or descriptor < 0:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
    return not poll.poll(0)
