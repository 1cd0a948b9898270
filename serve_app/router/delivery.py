"""Sending a stream to a client that must keep reading: one that takes nothing for too long is given up."""

import asyncio
from types import TracebackType
from typing import Self

from serve_app.core.services.requests import ClientGoneError
from serve_app.core.telemetry import get_logger
from serve_app.core.telemetry.asgi import Message, Send


class ClientStalledError(ClientGoneError):
    """The client keeps its connection and reads nothing; to its call that is the same as having left."""


class Delivery:
    """`send` of one stream, used by the task that enters it.

    One timer a stream looks now and then whether a piece is still on its way: a timer a piece would cost more than
    sending it.
    """

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self._since: float | None = None
        self._has_stalled = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._stall_s, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    async def __call__(self, message: Message) -> None:
        """Raises `ClientStalledError` when the client took nothing for `stall_s`: the last thing to be sent."""
        self._since = self._loop.time()
        try:
            await self._send(message)
        except asyncio.CancelledError:
            # Ours, unless somebody else wanted this task to end as well.
            if self._has_stalled and self._task.uncancel() == 0:
                get_logger().warning("client reads nothing", stall_s=self._stall_s)
                raise ClientStalledError from None
            raise
        finally:
            self._since = None

    def _look(self) -> None:
        since, now = self._since, self._loop.time()
        left_s = self._stall_s if since is None else since + self._stall_s - now
        if left_s > 0:
            self._timer = self._loop.call_at(now + left_s, self._look)
        else:
            self._has_stalled = True
            self._task.cancel()
