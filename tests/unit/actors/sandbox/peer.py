"""A supervisor that follows a script: what it reads it remembers, what it sends a test decides."""

import asyncio
import json
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.door.wire import END, ERROR, EVENT, HELLO, REQUEST, RESULT

TOKEN = "0123456789abcdef" * 2
Json = dict[str, object]


class Peer:
    """One connection, as the inside sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> tuple[int, bytes]:
        length, kind = struct.unpack(">IB", await self.reader.readexactly(5))
        return kind, await self.reader.readexactly(length)

    async def request(self) -> Json:
        kind, payload = await self.frame()
        assert kind == REQUEST, (kind, payload)
        found = json.loads(payload)
        assert isinstance(found, dict)
        return found

    async def upload(self) -> bytes:
        data = b""
        while (frame := await self.frame())[0] != END:
            data += frame[1]
        return data

    def put(self, kind: int, payload: bytes = b"") -> None:
        self.writer.write(struct.pack(">IB", len(payload), kind) + payload)

    def event(self, **fields: object) -> None:
        self.put(EVENT, json.dumps(fields).encode())

    def result(self, **fields: object) -> None:
        self.put(RESULT, json.dumps(fields).encode())

    def error(self, code: str, message: str = "no", **details: object) -> None:
        self.put(ERROR, json.dumps({"code": code, "message": message, "details": details}).encode())

    def exited(self, exit_code: int = 0) -> None:
        self.result(exit_code=exit_code, signal=None, timed_out=False, cut=False, duration_s=0.01)

    async def gone(self) -> None:
        """Until the host has closed."""
        while await self.reader.read(65536):
            continue


Script = Callable[[Peer, Json], Awaitable[None]]


class Inside:
    """Where scripted peers answer: each request of each connection is handed to `script`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.script: Script = _refuse
        self.hellos: list[Json] = []
        self.requests: list[Json] = []
        self.open = 0
        self.peers: list[Peer] = []
        self.most_answers: int | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self.open += 1
        try:
            kind, payload = await peer.frame()
            assert kind == HELLO
            self.hellos.append(json.loads(payload))
            while True:
                request = await peer.request()
                self.requests.append(request)
                await self.script(peer, request)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()

    def client(self, *, most_connections: int = 32, answer_timeout_s: float = 5.0) -> SandboxClient:
        return SandboxClient(
            dial_unix(self.path), TOKEN, most_connections=most_connections, answer_timeout_s=answer_timeout_s
        )


async def _refuse(peer: Peer, request: Json) -> None:
    peer.error("bad_request", "no script")


@asynccontextmanager
async def scripted() -> AsyncIterator[Inside]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        inside = Inside(str(Path(folder) / "door"))
        server = await asyncio.start_unix_server(inside.serve, inside.path)
        try:
            yield inside
        finally:
            server.close()
            for peer in inside.peers:
                peer.writer.transport.abort()
            await server.wait_closed()
            while inside.open:
                await asyncio.sleep(0.001)
