"""Joins a WebSocket with something in a sandbox until one of them ends, falls silent, or may go on no longer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.core.clock import Clock
from serve_app.core.errors import (
    AetherError,
    BodyTooLargeError,
    InvalidRequestError,
    TimedOutError,
    UnauthenticatedError,
)

PROTOCOL = "aether.v1"
"""The subprotocol a page offers beside its key, for the server to choose: the key must not be what is answered."""
IDLE_S = 3600.0
RECHECK_S = 15.0
MOST_MESSAGE_BYTES = 1024**2
_PIECE_BYTES = 256 * 1024


class Link:
    """One WebSocket, already admitted. Binary messages are bytes, text messages are JSON objects of its control."""

    def __init__(
        self,
        websocket: WebSocket,
        is_allowed: Callable[[], Awaitable[bool]],
        clock: Clock,
        *,
        idle_s: float = IDLE_S,
        recheck_s: float = RECHECK_S,
    ) -> None:
        self._websocket = websocket
        self._is_allowed = is_allowed
        self._clock = clock
        self._idle_s = idle_s
        self._recheck_s = recheck_s
        self._used_at = clock.monotonic()

    async def accept(self) -> None:
        offered = self._websocket.scope["subprotocols"]
        if offered and PROTOCOL not in offered:
            raise InvalidRequestError(f"Offer the subprotocol {PROTOCOL} as well.")
        await self._websocket.accept(PROTOCOL if offered else None)

    async def received(self) -> AsyncIterator[bytes | dict[str, Any]]:
        """Until the client leaves."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._used_at = self._clock.monotonic()
            data, text = message.get("bytes"), message.get("text")
            if len(data or text or "") > MOST_MESSAGE_BYTES:
                raise BodyTooLargeError(f"A message has at most {MOST_MESSAGE_BYTES} bytes.")
            yield _control(text) if data is None else data

    async def send(self, data: bytes) -> None:
        """Returns when there is room for more: a client that does not read stops what it does not read."""
        self._used_at = self._clock.monotonic()
        for at in range(0, len(data), _PIECE_BYTES):
            await self._websocket.send_bytes(data[at : at + _PIECE_BYTES])

    async def end(self, told: dict[str, Any] | None = None) -> None:
        """Whether the client is still there or not."""
        with suppress(WebSocketDisconnect, RuntimeError):
            if told is not None:
                await self._websocket.send_text(orjson.dumps(told).decode())
            await self._websocket.close(1000)

    async def join(self, *ways: Coroutine[Any, Any, None]) -> None:
        """Until one of them ends.

        Raises:
            TimedOutError: nothing passed for so long.
            UnauthenticatedError: the key was revoked.
        """
        tasks = [asyncio.create_task(way) for way in (*ways, self._guard())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(WebSocketDisconnect):
            for task in done:
                task.result()

    async def _guard(self) -> None:
        while True:
            await asyncio.sleep(min(self._recheck_s, self._idle_s))
            if self._clock.monotonic() - self._used_at > self._idle_s:
                raise TimedOutError("Nothing passed for too long.")
            if not await self._is_allowed():
                raise UnauthenticatedError("This API key is no longer valid.")


def _control(text: str | None) -> dict[str, Any]:
    try:
        found = orjson.loads(text or "")
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise InvalidRequestError("A text message is a JSON object; bytes come as binary messages.")
    return found


def whole(fields: dict[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidRequestError(f"{name}: a whole number from 1 to {most}.")
    return int(value)


def unknown(control: dict[str, Any]) -> AetherError:
    return InvalidRequestError(f"There is no control {str(control.get('do'))[:40]!r} here.")
