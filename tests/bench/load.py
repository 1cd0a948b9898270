"""Load for a gateway from a process of its own: keep-alive connections, one request after the other on each.

Run as `python -m tests.bench.load`, told what to do by one line of JSON on standard input; prints what it measured.
"""

import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

WARM_UP_S = 0.5
# An answer that ends with none of these was cut short.
ENDS = (b"}", b"data: [DONE]\n\n", b'data: {"type":"message_stop"}\n\n')


@dataclass(frozen=True)
class Load:
    """What to ask, how hard, and for how long: `seconds`, or `requests` when that is not 0."""

    url: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    clients: int = 1
    seconds: float = 3.0
    requests: int = 0
    chunks: int = 0
    """How many times `"content"` occurs in a whole answer's text at least; guards against measuring nonsense."""


@dataclass(frozen=True)
class Measured:
    """Times in milliseconds, from the sent request to the whole answer, and to the first byte of its body."""

    requests: int
    failures: int
    seconds: float
    p50: float
    p95: float
    first_p50: float
    why: str = ""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._checked = False
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._ask()

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._first = 0.0
        self._body = b""
        self._began = time.perf_counter()
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, piece: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        # Whole once a connection, to be checked; after that only its end is looked at.
        self._body = piece[-40:] if self._checked and len(piece) > 40 else self._body + piece

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        status = self._parser.get_status_code()
        good = status == 200 and self._body.endswith(ENDS)
        if good and not self._checked:
            good = self._body.count(b'"content') + self._body.count(b"text_delta") >= self._run.load.chunks
            self._checked = good
        if not good:
            self._run.fails(f"HTTP {status}: …{self._body[-300:].decode(errors='replace')}")
        else:
            self._run.took(now, now - self._began, self._first - self._began)
        if self._run.goes_on(now):
            self._ask()
        else:
            self._gone = True
            self._transport.close()
            self._run.left()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._gone:
            self._run.fails(f"the connection was lost: {exc}")
            self._run.left()


class Run:
    """One measurement."""

    def __init__(self, load: Load) -> None:
        self.load = load
        target = urlsplit(load.url)
        assert target.hostname
        self._host, self._port = target.hostname, target.port or 80
        headers = {"host": target.netloc, "content-type": "application/json", **load.headers}
        body = load.body.encode()
        headers["content-length"] = str(len(body))
        listed = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.request = f"POST {target.path} HTTP/1.1\r\n{listed}\r\n".encode() + body
        self._whole: list[float] = []
        self._firsts: list[float] = []
        self._failures = 0
        self._why = ""
        self._open = load.clients

    def took(self, now: float, whole: float, first: float) -> None:
        if now >= self._counts_from:
            self._whole.append(whole * 1000)
            self._firsts.append(first * 1000)

    def fails(self, why: str) -> None:
        self._failures += 1
        self._why = self._why or why

    def goes_on(self, now: float) -> bool:
        if self.load.requests:
            self._left -= 1
            return self._left >= self._open
        return now < self._ends

    def left(self) -> None:
        self._open -= 1
        if not self._open:
            self._done.set()

    async def measure(self) -> Measured:
        self._done = asyncio.Event()
        self._left = self.load.requests
        warm_up = 0.0 if self.load.requests else WARM_UP_S
        self._counts_from = time.perf_counter() + warm_up
        self._ends = self._counts_from + self.load.seconds
        loop = asyncio.get_running_loop()
        for _ in range(self.load.clients):
            await loop.create_connection(lambda: Client(self), self._host, self._port)
        await self._done.wait()
        seconds = time.perf_counter() - self._counts_from
        if not self._whole:
            return Measured(0, self._failures, seconds, 0.0, 0.0, 0.0, self._why)
        ordered = sorted(self._whole)
        return Measured(
            requests=len(ordered),
            failures=self._failures,
            seconds=seconds,
            p50=statistics.median(ordered),
            p95=ordered[len(ordered) * 95 // 100],
            first_p50=statistics.median(self._firsts),
            why=self._why,
        )


def main() -> None:
    load = Load(**json.loads(sys.stdin.read()))
    print(json.dumps(asdict(uvloop.run(Run(load).measure()))))


if __name__ == "__main__":
    main()
