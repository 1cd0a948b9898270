"""HTTP/1.1 over links, in both roles: the one place that knows h11.

Messages are taken apart and put together again, never passed on as they are: what one side might read as one request
and the other as two (request smuggling) has no way through.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import h11

from actors.sandbox.egress.errors import BadProxyRequestError, HostFailedError
from actors.sandbox.egress.links import Link
from serve_app.core.errors import TimedOutError

Headers = tuple[tuple[bytes, bytes], ...]
_TURN_EVENTS = 32
_LEFTOVER_BYTES = 256 * 1024
_LEFTOVER_S = 1.0
_VERSIONS = frozenset({b"1.0", b"1.1"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization proxy-authentication-info te "
    b"trailer upgrade transfer-encoding http2-settings".split()
)


@dataclass(frozen=True)
class RequestHead:
    method: str
    target: bytes
    headers: Headers
    has_body: bool
    is_chunked: bool = False


@dataclass(frozen=True)
class AnswerHead:
    status: int
    reason: bytes
    headers: Headers


def passed_on(headers: Headers, *, without: frozenset[bytes] = frozenset()) -> Headers:
    """The headers that are for the other end. Names are in lower case."""
    named = {
        name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")
    } - _FRAMING
    is_chunked = any(key == b"transfer-encoding" for key, _ in headers)
    dropped = _HOP_BY_HOP | named | without | ({b"content-length"} if is_chunked else set())
    return tuple((key, value) for key, value in headers if key not in dropped)


def asked_onward(
    request: RequestHead,
    host: bytes,
    path: bytes,
    *,
    without: frozenset[bytes] = frozenset(),
    added: Headers = (),
) -> RequestHead:
    """The request as it is asked of `host`. Whatever `Host` the program wrote, this is the one that was judged."""
    headers = passed_on(request.headers, without=without | {b"host", b"expect"})
    framing = ((b"transfer-encoding", b"chunked"),) if request.is_chunked else ()
    return replace(request, target=path, headers=((b"host", host), *headers, *framing, *added))


class _Speaker:
    """What both roles share: events read off a link, each within a time."""

    def __init__(self, link: Link, role: type[h11.CLIENT | h11.SERVER], most_head_bytes: int) -> None:
        self.link = link
        self._http = h11.Connection(role, max_incomplete_event_size=most_head_bytes)
        self._most_head_bytes = most_head_bytes
        self._events = 0

    async def _event(self, timeout_s: float) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """Raises `TimeoutError`, `OSError`, `h11.RemoteProtocolError`."""
        self._events += 1
        if self._events % _TURN_EVENTS == 0:
            # One read can hold thousands of requests or chunks: the loop is everybody's.
            await asyncio.sleep(0)
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            async with asyncio.timeout(timeout_s):
                self._http.receive_data(await self.link.read())

    def _check_size(self, event: h11.Request | h11.Response) -> None:
        """h11 bounds what is not complete yet; a head that came at once may be longer."""
        size = len(event.target) if isinstance(event, h11.Request) else len(event.reason)
        if size + sum(len(key) + len(value) for key, value in event.headers) > self._most_head_bytes:
            raise h11.RemoteProtocolError(f"the head is longer than {self._most_head_bytes} bytes")

    async def _send(self, event: h11.Event, timeout_s: float) -> None:
        if data := self._http.send(event):
            async with asyncio.timeout(timeout_s):
                await self.link.write(data)

    async def _body(self, timeout_s: float) -> AsyncGenerator[bytes, None]:
        while not isinstance(event := await self._event(timeout_s), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise h11.RemoteProtocolError("the body is not complete")
            yield bytes(event.data)


class Asked(_Speaker):
    """A program inside asks, and is answered."""

    def __init__(self, link: Link, *, most_head_bytes: int, idle_s: float, said: bytes = b"") -> None:
        super().__init__(link, h11.SERVER, most_head_bytes)
        if said:
            self._http.receive_data(said)
        self._idle_s = idle_s
        self._method = ""
        self.has_answered = False
        """Whether a head was sent since the last request: then no other one can be."""

    async def request(self, first_s: float, head_s: float) -> RequestHead | None:
        """None: nobody asks any more. At most `first_s` is waited for the first byte, then `head_s` for the rest.

        Raises `BadProxyRequestError`, `TimedOutError`, `OSError`.
        """
        try:
            if not self._http.trailing_data[0]:
                async with asyncio.timeout(first_s):
                    if not (data := await self.link.read()):
                        return None
                self._http.receive_data(data)
        except TimeoutError:
            return None
        self.has_answered = False
        try:
            async with asyncio.timeout(head_s):
                event = await self._event(head_s)
                if not isinstance(event, h11.Request):
                    return None
                if bytes(event.http_version) not in _VERSIONS:
                    raise h11.RemoteProtocolError("the version of HTTP is not spoken here")
                self._check_size(event)
                head = _head(event)
                if not head.has_body:
                    await self._event(head_s)  # its end, which has no bytes
        except TimeoutError:
            raise TimedOutError("The head of the request did not come in time.") from None
        except h11.RemoteProtocolError as exc:
            raise BadProxyRequestError(f"The request is no HTTP/1.1: {exc}.") from None
        self._method = head.method
        return head

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Raises `BadProxyRequestError`, `TimedOutError`, `OSError`."""
        try:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b""), self._idle_s)
            async for data in self._body(self._idle_s):
                yield data
        except TimeoutError:
            raise TimedOutError("The body of the request stopped coming.") from None
        except h11.RemoteProtocolError as exc:
            raise BadProxyRequestError(f"The body of the request is no HTTP/1.1: {exc}.") from None

    async def answer(self, head: AnswerHead) -> None:
        """Raises `OSError` (a program that does not read what it asked for is gone, for us), `HostFailedError`."""
        self.has_answered = True
        try:
            response = h11.Response(status_code=head.status, headers=list(head.headers), reason=head.reason)
            await self._send(response, self._idle_s)
        except h11.LocalProtocolError as exc:
            raise HostFailedError(f"The host's answer cannot be passed on: {exc}.") from exc

    async def write(self, data: bytes) -> None:
        if self._method != "HEAD":
            await self._send(h11.Data(data=data), self._idle_s)

    async def end(self) -> None:
        await self._send(h11.EndOfMessage(), self._idle_s)

    def opened(self) -> bytes:
        """After a good answer to CONNECT: what the program has said already. HTTP ends here."""
        return self._http.trailing_data[0]

    async def is_ready_again(self) -> bool:
        """Whether another request can come on this link. Reads what is left of a body, if it is little: closing before
        would take the answer away from who is still sending."""
        try:
            async with asyncio.timeout(_LEFTOVER_S):
                left_bytes = _LEFTOVER_BYTES
                if self._http.their_state is h11.SEND_BODY:
                    async for data in self._body(_LEFTOVER_S):
                        left_bytes -= len(data)
                        if left_bytes < 0:
                            return False
            self._http.start_next_cycle()
        except (OSError, h11.ProtocolError):
            return False
        return True


class Asking(_Speaker):
    """We ask a host, and it answers."""

    def __init__(self, link: Link, host: str, *, most_head_bytes: int, idle_s: float) -> None:
        super().__init__(link, h11.CLIENT, most_head_bytes)
        self._host = host
        self._idle_s = idle_s

    async def ask(self, head: RequestHead) -> None:
        """Raises `HostFailedError`."""
        try:
            await self._send(
                h11.Request(method=head.method, target=head.target, headers=list(head.headers)), self._idle_s
            )
            if not head.has_body:
                await self._send(h11.EndOfMessage(), self._idle_s)
        except (OSError, h11.ProtocolError) as exc:
            raise self._failed(exc) from exc

    async def write(self, data: bytes) -> None:
        """Raises `OSError`, also when the host has stopped reading: it may have answered already."""
        await self._send(h11.Data(data=data), self._idle_s)

    async def end(self) -> None:
        await self._send(h11.EndOfMessage(), self._idle_s)

    async def answer(self) -> AnswerHead:
        """The final one. Raises `HostFailedError`, `TimedOutError`."""
        try:
            while isinstance(event := await self._event(self._idle_s), h11.InformationalResponse):
                pass  # an early hint or the 100 we did not ask for: ours is sent by ourselves
            if isinstance(event, h11.Response):
                self._check_size(event)
        except (OSError, h11.ProtocolError) as exc:
            raise self._failed(exc) from exc
        if not isinstance(event, h11.Response):
            raise HostFailedError(f"host {self._host} closed the connection without an answer.")
        return AnswerHead(event.status_code, bytes(event.reason), _headers(event))

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Raises `HostFailedError`, `TimedOutError`."""
        try:
            async for data in self._body(self._idle_s):
                yield data
        except (OSError, h11.ProtocolError) as exc:
            raise self._failed(exc) from exc

    def is_ready_again(self) -> bool:
        """Whether the host keeps the connection open for another question."""
        try:
            self._http.start_next_cycle()
        except h11.ProtocolError:
            return False
        return not self._http.trailing_data[0]

    def _failed(self, exc: OSError | h11.ProtocolError) -> HostFailedError | TimedOutError:
        match exc:
            case TimeoutError():
                return TimedOutError(f"host {self._host} did not go on within {self._idle_s:g} seconds.")
            case OSError():
                return HostFailedError(f"host {self._host} broke the connection off.")
            case h11.ProtocolError():
                return HostFailedError(f"host {self._host} does not answer with HTTP/1.1 as it should.")


def _head(event: h11.Request) -> RequestHead:
    headers = _headers(event)
    is_chunked = any(key == b"transfer-encoding" for key, _ in headers)
    has_body = is_chunked or any(key == b"content-length" and int(value) > 0 for key, value in headers)
    return RequestHead(event.method.decode("ascii"), bytes(event.target), headers, has_body, is_chunked)


def _headers(event: h11.Request | h11.Response) -> Headers:
    return tuple((bytes(key), bytes(value)) for key, value in event.headers)
