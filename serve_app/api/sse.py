"""Server-sent events: frames to bytes, and a response that ends when its reader leaves or may read no longer."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.core.clock import Clock
from serve_app.core.errors import UnauthenticatedError, UnavailableError
from serve_app.core.services.callers import Authenticator
from serve_app.core.services.presence import while_present
from serve_app.core.services.requests import ClientGoneError
from serve_app.core.services.session_log import KeepAlive
from serve_app.core.stores.live.base import LiveFrame
from serve_app.core.telemetry import get_logger

RECHECK_KEY_S = 15.0
_KEEP_ALIVE_S = 15.0
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}
Items = AsyncGenerator[LiveFrame | KeepAlive, None]


def encode(item: LiveFrame | KeepAlive) -> bytes:
    """One event. Only durable ones carry an id, so `Last-Event-ID` always names a `seq` of the log."""
    if isinstance(item, KeepAlive):
        return b": keep-alive\n\n"
    head = b"" if item.seq is None else b"id: %d\n" % item.seq
    return b"%sevent: %s\ndata: %s\n\n" % (head, item.type.encode(), item.body)


async def is_allowed(token: str, authenticator: Authenticator) -> bool:
    """Whether what is open may stay so: False once its key is revoked."""
    try:
        await authenticator.authenticate(token)
    except UnauthenticatedError:
        return False
    except UnavailableError:
        get_logger().warning("key of an open stream could not be looked up")
    return True


async def while_allowed(items: Items, token: str, authenticator: Authenticator, clock: Clock) -> Items:
    """Ends the stream once its key is revoked; it is looked at again every `RECHECK_KEY_S`."""
    check_at = clock.monotonic() + RECHECK_KEY_S
    async with aclosing(items):
        async for item in items:
            if clock.monotonic() >= check_at:
                check_at = clock.monotonic() + RECHECK_KEY_S
                if not await is_allowed(token, authenticator):
                    return
            yield item


async def kept_alive(items: AsyncGenerator[LiveFrame, None], every_s: float = _KEEP_ALIVE_S) -> Items:
    """A sign of life wherever nothing comes for so long: proxies end what is silent."""
    coming: asyncio.Future[LiveFrame] | None = None
    async with aclosing(items):
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(items))
                if not (await asyncio.wait([coming], timeout=every_s))[0]:
                    yield KeepAlive()
                    continue
                came, coming = coming, None
                try:
                    item = came.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)


class SseResponse(Response):
    """Streams `items` until they end or the client is gone; closes them either way."""

    def __init__(self, items: Items) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._items = items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's form
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # A first byte at once: clients and proxies then know that the stream is open.
        await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
        with suppress(ClientGoneError):
            await while_present(self._stream(send), receive)

    async def _stream(self, send: Send) -> None:
        async with aclosing(self._items) as items:
            async for item in items:
                await send({"type": "http.response.body", "body": encode(item), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
