"""A model provider in the test's own process: real sockets, every request kept, every answer scripted byte by byte."""

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, cast

from tests.doubles.answers import Answer, Ending, Framing, Json


@dataclass
class Request:
    """What arrived, and what became of its answer."""

    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    header_lines: list[tuple[str, str]]  # as sent
    body: bytes
    sent_bytes: int = 0
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing more will be written."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """The caller closed the connection before its answer ended."""

    def json(self) -> Any:
        return json.loads(self.body)


Chooser = Callable[[Request], Answer]


class Double:
    """`async with Double() as double: double.plays(Fixture("openai-chat/text.sse"))`, then call `double.url`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._scripts: dict[str, Chooser] = {}
        self._lines: set[_Line] = set()
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Line(self), "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        working = [line.work for line in self._lines]
        for line in list(self._lines):
            line.work.cancel()
            line.transport.abort()
        await asyncio.gather(*working, return_exceptions=True)
        await self._server.wait_closed()

    def plays(self, *answers: Answer, on: str = "") -> None:
        """One answer a request, in turn; the last one repeats. `on` limits it to paths that end so."""
        waiting = list(answers)
        self.chooses(lambda _: waiting.pop(0) if len(waiting) > 1 else waiting[0], on=on)

    def chooses(self, chooser: Chooser, *, on: str = "") -> None:
        """The answer is worked out from the request."""
        self._scripts[on] = chooser

    async def received(self, count: int = 1) -> Request:
        """The request of that number, as soon as it has arrived whole."""
        while len(self.requests) < count:
            self._news.clear()
            await self._news.wait()
        return self.requests[count - 1]

    def answer_to(self, request: Request) -> Answer:
        self.requests.append(request)
        self._news.set()
        for ending in sorted(self._scripts, key=len, reverse=True):
            if request.path.endswith(ending):
                return self._scripts[ending](request)
        return Json({"error": {"message": f"nothing is scripted for {request.path}"}}, status=501)


class _Line(asyncio.Protocol):
    """One connection, kept alive between requests."""

    transport: asyncio.Transport
    work: asyncio.Task[None]

    def __init__(self, double: Double) -> None:
        self._double = double
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._double.connections += 1
        self._double._lines.add(self)
        self.work = asyncio.get_running_loop().create_task(self._serve())
        self.work.add_done_callback(lambda _: self._double._lines.discard(self))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._arrived.set()
        self._writable.set()

    async def _serve(self) -> None:
        try:
            while (request := await self._read()) and await self._answer(request):
                pass
        finally:
            self.transport.close()

    async def _answer(self, request: Request) -> bool:
        """Whether the connection can take another request."""
        double = self._double
        double.in_flight += 1
        double.most_in_flight = max(double.most_in_flight, double.in_flight)
        try:
            return await self._write(double.answer_to(request), request)
        finally:
            double.in_flight -= 1
            request.answered.set()

    async def _read(self) -> Request | None:
        head = await self._take_until(b"\r\n\r\n")
        if head is None:
            return None
        first, *rest = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        path, _, query = target.partition("?")
        listed = [(name, value.strip()) for name, _, value in (line.partition(":") for line in rest)]
        headers = {name.lower(): value for name, value in listed}
        if headers.get("transfer-encoding") == "chunked":
            body = await self._take_chunks()
        else:
            body = await self._take(int(headers.get("content-length", "0")))
        return None if body is None else Request(method, path, query, headers, listed, body)

    async def _take_chunks(self) -> bytes | None:
        body = bytearray()
        while line := await self._take_until(b"\r\n"):
            size = int(line, 16)
            if (chunk := await self._take(size + 2)) is None:
                return None
            if not size:
                return bytes(body)
            body += chunk[:-2]
        return None

    async def _take_until(self, mark: bytes) -> bytes | None:
        while (found := self._buffer.find(mark)) < 0:
            if not await self._more():
                return None
        return await self._take(found + len(mark))

    async def _take(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            if not await self._more():
                return None
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _more(self) -> bool:
        self._arrived.clear()
        if not self._gone.is_set():
            await self._arrived.wait()
        return not self._gone.is_set()

    async def _write(self, answer: Answer, request: Request) -> bool:
        chunked = answer.framing is Framing.CHUNKED
        await self._pause(answer.first_byte_s)
        self.transport.write(answer.head())
        for number, piece in enumerate(answer.pieces()):
            # Even without a delay the loop turns, so that a reader in this process sees the pieces one by one.
            await self._pause(answer.delay_s if number else 0.0)
            await self._writable.wait()
            if self._gone.is_set():
                break
            if piece:
                self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                request.sent_bytes += len(piece)
        if answer.ending is Ending.STALL:
            await self._gone.wait()
        if self._gone.is_set():
            request.left.set()
            return False
        if answer.ending is Ending.RESET:
            # An abort with nothing left to linger for is sent as RST.
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
            return False
        if answer.ending is Ending.CUT:
            return False
        if chunked:
            self.transport.write(b"0\r\n\r\n")
        return answer.framing is not Framing.CLOSE and "content-length" not in {name.lower() for name in answer.headers}

    async def _pause(self, seconds: float) -> None:
        """Ends early when the caller leaves."""
        if not seconds:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return
