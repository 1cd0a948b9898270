"""Server-sent events: session frames to bytes, and a response that ends when its reader leaves."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.core.services.presence import while_present
from serve_app.core.services.requests import ClientGoneError
from serve_app.core.services.session_log import KeepAlive
from serve_app.core.stores.live.base import LiveFrame

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


def encode(item: LiveFrame | KeepAlive) -> bytes:
    """One event. Only durable ones carry an id, so `Last-Event-ID` always names a `seq` of the log."""
    if isinstance(item, KeepAlive):
        return b": keep-alive\n\n"
    head = b"" if item.seq is None else b"id: %d\n" % item.seq
    return b"%sevent: %s\ndata: %s\n\n" % (head, item.type.encode(), item.body)


class SseResponse(Response):
    """Streams `items` until they end or the client is gone; closes them either way."""

    def __init__(self, items: AsyncGenerator[LiveFrame | KeepAlive, None]) -> None:
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
