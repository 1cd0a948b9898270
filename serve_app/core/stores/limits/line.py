"""One connection to Redis or Valkey for what every call waits for: commands go out at once, answers come in order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import hiredis

from serve_app.core.errors import MisconfiguredError, UnavailableError

# Its type says that a command is one word long.
_packed = cast(Callable[[tuple[str | bytes | float, ...]], bytes], hiredis.pack_command)
_REFUSALS = ("NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH", "ERR invalid password")
_TRY_AGAIN_S = (0.05, 0.2)
"""A server that restarts takes no connections for a moment."""


class UnknownScriptError(Exception):
    """The server has to be told the script first: it is another process than the one that knew it."""


class Line:
    """Connects when first used, and again after the connection was lost. What waits for an answer then is told so, and
    is not sent again: nobody knows whether it was done.

    `attach` opens a connection for a protocol; `greeting` are the commands each connection begins with (the login).
    """

    def __init__(
        self,
        attach: Callable[[Callable[[], "_Connection"]], Awaitable["_Connection"]],
        greeting: Sequence[Sequence[str]],
        timeout_s: float,
    ) -> None:
        self._attach = attach
        self._greeting = greeting
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._opening: asyncio.Task[_Connection] | None = None

    async def call(self, *command: str | bytes | float) -> Any:
        """The answer, its strings as bytes.

        Raises:
            UnavailableError: the server cannot be reached, did not answer in time, or refused the command.
            MisconfiguredError: it refuses the login.
            UnknownScriptError: it was asked for a script by a digest it does not know.
        """
        connection = self._connection
        if connection is None or connection.is_lost:
            connection = await self._open()
        answer = await connection.send(_packed(command))
        if isinstance(answer, hiredis.ReplyError):
            raise _error_of(str(answer)) from answer
        return answer

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0)

    async def _open(self) -> "_Connection":
        """One attempt, whoever waits for it; it goes on when one of them leaves."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect(), name="limits' line")
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, task: "asyncio.Task[_Connection]") -> None:
        self._opening = None
        if not task.cancelled() and task.exception() is None:
            self._connection = task.result()

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connect_patiently(loop)
                for command in self._greeting:
                    answer = await connection.send(_packed(tuple(command)))
                    if isinstance(answer, hiredis.ReplyError):
                        connection.close()
                        raise _error_of(str(answer)) from answer
        except OSError as exc:  # a timeout is one
            raise UnavailableError("The Redis server cannot be reached right now.") from exc
        return connection

    async def _connect_patiently(self, loop: asyncio.AbstractEventLoop) -> "_Connection":
        for pause_s in _TRY_AGAIN_S:
            try:
                return await self._attach(lambda: _Connection(loop, self._timeout_s))
            except OSError:
                await asyncio.sleep(pause_s)
        return await self._attach(lambda: _Connection(loop, self._timeout_s))


class _Connection(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._reader = hiredis.Reader(notEnoughData=self)
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.is_lost = False

    def send(self, packed: bytes) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None or self.is_lost:
            answer.set_exception(UnavailableError("The connection to the Redis server was lost."))
            return answer
        self._waiting.append((self._loop.time() + self._timeout_s, answer))
        if self._alarm is None:
            # One alarm serves many answers: it finds most of them given, and looks again when the next one is due.
            self._alarm = self._loop.call_later(self._timeout_s, self._ring)
        self._transport.write(packed)
        return answer

    def close(self) -> None:
        self._lose()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not self:
                if not self._waiting:
                    self.close()
                    return
                _, future = self._waiting.popleft()
                if not future.done():
                    future.set_result(answer)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - what the event loop tells
        self._lose()

    def _lose(self) -> None:
        self.is_lost = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(UnavailableError("The Redis server ended the connection, or does not answer."))

    def _ring(self) -> None:
        self._alarm = None
        if not self._waiting:
            return
        due_at = self._waiting[0][0]
        if due_at <= self._loop.time():
            self.close()
        else:
            self._alarm = self._loop.call_at(due_at, self._ring)


def _error_of(told: str) -> Exception:
    if told.startswith("NOSCRIPT"):
        return UnknownScriptError(told)
    if told.startswith(_REFUSALS):
        return MisconfiguredError("The Redis server refuses the login; see AETHER_REDIS_URL.")
    return UnavailableError("The Redis server cannot do this right now.", told=told[:200])
