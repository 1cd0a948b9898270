"""One file as an HTTP answer: ranges, a type that no browser will run, and a length that is kept."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.entries import Bytes, Reading
from serve_app.api.resources.sandboxes.files.schemas import shown
from serve_app.core.errors import AetherError, SandboxLostError
from serve_app.core.services.presence import while_present
from serve_app.core.telemetry import get_logger

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_LONGEST_CHARACTER = 4
_SAFE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cache-control": "no-store",
}


class RangeError(AetherError):
    """The file has no such range."""

    code, status = "range_not_satisfiable", 416


@dataclass(frozen=True)
class Range:
    """From `offset`, `length` bytes or to the end."""

    offset: int = 0
    length: int | None = None


async def range_of(client: SandboxClient, path: str, header: str | None) -> Range | None:
    """None: the whole file, also where the header is one that may be ignored (RFC 9110, section 14.2)."""
    found = _RANGE.fullmatch(header or "")
    if found is None or found[1] == found[2] == "":
        return None
    first, last = found[1], found[2]
    if first == "":
        size = (await client.stat(path)).size
        length = min(int(last), size)
        if length == 0:
            raise RangeError("A range of no bytes.", size=size)
        return Range(size - length, length)
    if last and int(last) < int(first):
        return None
    return Range(int(first), int(last) - int(first) + 1 if last else None)


class Download(Response):
    """What a sandbox sends, piece by piece, for as long as the client is there. `reading` is open, and closed here.

    `length`: neither more nor less is sent; a file that shrinks under way breaks the answer off.
    """

    def __init__(
        self, reading: Bytes, first: bytes, headers: dict[str, str], status: int = 200, length: int | None = None
    ) -> None:
        super().__init__(status_code=status, headers=headers | _SAFE)
        del self.headers["content-length"]
        if length is not None:
            self.headers["content-length"] = str(length)
        self._reading = reading
        self._first = first
        self._length = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's form
        try:
            await while_present(self._stream(send), receive)
        except AetherError as exc:
            # What has begun can only be broken off: the server closes the connection when we return.
            get_logger().warning("answer broken off", code=exc.code)
        finally:
            self._reading.close()

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        left = self._length
        async for piece in self._pieces():
            cut = piece if left is None else piece[:left]
            if cut:
                await send({"type": "http.response.body", "body": cut, "more_body": True})
            if left is not None:
                left -= len(cut)
                if left == 0:
                    break
        if left:
            raise SandboxLostError("The file became shorter while it was read.")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        # Its end is read as well, so that the connection can be used again; a file that grew is left there.
        await anext(self._reading, None)

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield self._first
        async for piece in self._reading:
            yield piece


async def download(client: SandboxClient, path: str, header: str | None) -> Download:
    wanted = await range_of(client, path, header)
    offset, length = (wanted.offset, wanted.length) if wanted else (0, None)
    reading = client.read(path, offset=offset, limit=length)
    await reading.open()
    try:
        size = reading.size
        if wanted and offset >= size:
            raise RangeError(f"The file has {size} bytes.", size=size)
        first = await anext(reading, b"")
    except BaseException:
        reading.close()
        raise
    left = max(0, size - offset)
    headers = {
        "content-type": _type_of(first) if offset == 0 else "application/octet-stream",
        "content-disposition": f"attachment; filename*=UTF-8''{quote(shown(path).rsplit('/', 1)[-1], safe='')}",
        "accept-ranges": "bytes",
        "etag": _tag(reading),
    }
    if wanted is None:
        return Download(reading, first, headers, length=left)
    length = left if length is None else min(length, left)
    headers["content-range"] = f"bytes {offset}-{offset + length - 1}/{size}"
    return Download(reading, first, headers, status=206, length=length)


async def download_archive(client: SandboxClient, path: str) -> Download:
    """Its first piece is there before the answer begins, so that a refusal is an answer."""
    archive = client.tar(path)
    await archive.open()
    try:
        first = await anext(archive, b"")
    except BaseException:
        archive.close()
        raise
    headers = {"content-type": "application/x-tar", "content-disposition": 'attachment; filename="workspace.tar"'}
    return Download(archive, first, headers)


def _tag(reading: Reading) -> str:
    return f'W/"{reading.mtime_ns:x}-{reading.size:x}"'


def _type_of(first: bytes) -> str:
    """Text, or bytes: what a name or content claims to be beyond that could be run by a browser."""
    try:
        first.decode()
    except UnicodeDecodeError as exc:
        if exc.reason != "unexpected end of data" or len(first) - exc.start >= _LONGEST_CHARACTER:
            return "application/octet-stream"
    return "application/octet-stream" if b"\0" in first else "text/plain; charset=utf-8"
