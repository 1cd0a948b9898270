"""What a replica's HTTP server does for calls to models: uvicorn's connection, with a shorter way for the hot paths.

uvicorn starts an application when a request's head has come, which then waits for its body in a task of its own time,
watches in a second one whether the client left, and writes head and body of its answer apart. Here it starts when the
body is there (or does not come at once), is called when the client leaves, and writes once. All the rest is uvicorn's:
parsing, other paths, kept connections, shutting down.
"""

import asyncio
import http
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, cast

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from serve_app.core.services.presence import while_present
from serve_app.core.services.requests import ClientGoneError
from serve_app.core.telemetry import get_logger
from serve_app.core.telemetry.asgi import AsgiApp, Message, Receive, Scope

_PREFIX = b"/v1/"
_PRESENCE_KEY = "aether.presence"
_SMALL_BYTES = 64 * 1024
_BROKEN = b"Internal Server Error"
_T = TypeVar("_T")
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
}


class Admission(Protocol):
    """Whether a call may take the short way, and the application behind it."""

    def has_room(self) -> bool: ...

    async def __call__(self, scope: Scope, receive: Receive, send: "Callable[[Message], Any]") -> None: ...


class Open:
    """Everybody may."""

    def __init__(self, application: AsgiApp) -> None:
        self._application = application

    def has_room(self) -> bool:
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Callable[[Message], Any]) -> None:
        await self._application(scope, receive, send)


async def while_there(work: Coroutine[Any, Any, _T], scope: Scope, receive: Receive) -> _T:
    """`while_present`, without a second task where the server tells by itself that the client left."""
    exchange = scope.get(_PRESENCE_KEY)
    if not isinstance(exchange, _Exchange):
        return await while_present(work, receive)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    if exchange.disconnected:
        work.close()
        raise ClientGoneError
    exchange.working = task
    try:
        return await work
    except asyncio.CancelledError:
        # Ours, unless somebody else wanted this task to end as well.
        if exchange.disconnected and exchange.working is None and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        exchange.working = None


def whole_body(scope: Scope, max_bytes: int) -> bytes | None:
    """The request's body where it came together with the head, and is no larger than that; it is read then."""
    exchange = scope.get(_PRESENCE_KEY)
    if not isinstance(exchange, _Exchange) or exchange.more_body or len(exchange.body) > max_bytes:
        return None
    return exchange.take()


class FrontProtocol(HttpToolsProtocol):
    """One connection from a client or a proxy."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        admission: Admission,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._admission = admission
        self._begun: _Exchange | None = None
        self._idle_since = 0.0
        """0: a request is under way."""

    def on_headers_complete(self) -> None:
        parser, url = self.parser, self.url
        before = self.cycle
        is_ours = (
            parser.get_method() == b"POST"
            and url.startswith(_PREFIX)
            and b"%" not in url
            and b"?" not in url
            and b"#" not in url
            and url.isascii()
            and not self.expect_100_continue
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
            and (before is None or before.response_complete)
            and self._admission.has_room()
        )
        if not is_ours:
            super().on_headers_complete()
            return
        scope = self.scope
        scope["method"] = "POST"
        scope["path"] = self.root_path + url.decode("ascii")
        scope["raw_path"] = self.root_path.encode("ascii") + url
        scope["query_string"] = b""
        self._begun = _Exchange(scope, self, self.flow, is_kept=parser.should_keep_alive())
        # It has of a cycle what this class asks of it.
        self.cycle = cast(RequestResponseCycle, self._begun)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        begun, self._begun = self._begun, None
        if begun is not None and not begun.disconnected:
            task = self.loop.create_task(begun.run(self._admission))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def on_response_complete(self) -> None:
        """As above, but for the alarm: one serves many requests, and finds when it rings that it was too early."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._set_alarm(self.timeout_keep_alive)

    def _set_alarm(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = 0.0

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if not self._idle_since:
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._set_alarm(left_s)
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if isinstance(self.cycle, _Exchange):
            self.cycle.leave()


class _Exchange:
    """A request and its answer, as an ASGI application sees them. Without underscores: what `HttpToolsProtocol` uses."""

    def __init__(self, scope: Any, connection: FrontProtocol, flow: FlowControl, *, is_kept: bool) -> None:
        self.disconnected = False
        self.response_complete = False
        self.keep_alive = is_kept
        self.message_event = asyncio.Event()
        self.body = bytearray()
        self.more_body = True
        self.working: asyncio.Task[Any] | None = None
        """Ends when the client leaves."""
        self._scope = scope
        self._connection = connection
        self._flow = flow
        self._has_told_end = False
        self._has_begun = False
        self._head = b""
        self._left: int | None = None
        """Bytes of the body that are still to come; None: it is sent in chunks."""

    async def run(self, admission: Admission) -> None:
        self._scope[_PRESENCE_KEY] = self
        try:
            await admission(self._scope, self.receive, self.send)
        except Exception as exc:  # noqa: BLE001 - the last that could answer
            get_logger().error("the application failed", exc_info=exc)
        if self.disconnected or self.response_complete:
            return
        if self._has_begun:
            # Cut short, which the client must see. One that reads nothing would keep a closing connection open.
            transport = self._connection.transport
            transport.abort() if self._flow.write_paused else transport.close()
            return
        self.keep_alive = False
        length = (b"content-length", b"%d" % len(_BROKEN))
        await self.send({"type": "http.response.start", "status": 500, "headers": [length]})
        await self.send({"type": "http.response.body", "body": _BROKEN})

    def leave(self) -> None:
        """The client is gone."""
        if self.response_complete:
            return
        self.disconnected = True
        working, self.working = self.working, None
        if working is not None:
            working.cancel()

    def take(self) -> bytes:
        """What has come of the body."""
        body = bytes(self.body)
        self.body.clear()
        self._has_told_end = not self.more_body
        self._flow.resume_reading()
        return body

    async def receive(self) -> Message:
        while not self.disconnected and not self.response_complete:
            if self.body or not (self.more_body or self._has_told_end):
                return {"type": "http.request", "body": self.take(), "more_body": self.more_body}
            await self.message_event.wait()
            self.message_event.clear()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
            return
        if not self._has_begun or self.response_complete:
            raise RuntimeError("A body belongs between a head and its own end.")
        body, has_more = message.get("body", b""), message.get("more_body", False)
        head, self._head = self._head, b""
        transport = self._connection.transport
        if self._left is None:
            ended = b"" if has_more else b"0\r\n\r\n"
            transport.write(b"%b%x\r\n%b\r\n%b" % (head, len(body), body, ended) if body else head + ended)
        else:
            self._left -= len(body)
            if self._left < 0 or (self._left and not has_more):
                raise RuntimeError("The body is not as long as the head says.")
            if head and len(body) > _SMALL_BYTES:
                transport.write(head)
                head = b""
            transport.write(head + body if head else body)
        if not has_more:
            self._end()

    def _begin(self, status: int, headers: Any) -> None:
        """Sent with the first of the body, in one packet."""
        if self._has_begun:
            raise RuntimeError("An answer has one head.")
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        count = 1
        for name, value in (*self._connection.server_state.default_headers, *headers):
            if name == b"content-length":
                self._left = int(value)
            lines += (name, b": ", value, b"\r\n")
            count += 1
        if self._left is None:
            lines.append(b"transfer-encoding: chunked\r\n")
            count += 1
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
            count += 1
        head = b"".join(lines)
        if head.count(b"\n") != count or head.count(b"\r") != count:
            raise RuntimeError("A header has a line end in it.")
        self._has_begun = True
        self._head = head + b"\r\n"

    def _end(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()
