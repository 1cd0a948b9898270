"""What happens in a sandbox as server-sent events: output as text or base64, refusals before the first, errors as the last."""

import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import orjson
from fastapi import Request
from pydantic import BaseModel

from serve_app.api.deps import Services
from serve_app.api.sse import SseResponse, kept_alive, while_allowed
from serve_app.core.errors import AetherError
from serve_app.core.services.requests import bearer_token, header
from serve_app.core.stores.live.base import LiveFrame

Frames = AsyncGenerator[LiveFrame, None]
_LONGEST_CHARACTER = 4


def wants_events(request: Request) -> bool:
    return "text/event-stream" in (header(request.scope, b"accept") or "")


def frame(kind: str, body: object) -> LiveFrame:
    return LiveFrame(None, kind, orjson.dumps(body.model_dump(mode="json") if isinstance(body, BaseModel) else body))


class Pieces:
    """One stream of a program, cut anywhere, as text wherever it is UTF-8: half a character waits for its other half."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> dict[str, str] | None:
        data = self._rest + data
        self._rest = b""
        try:
            return {"text": data.decode()} if data else None
        except UnicodeDecodeError as exc:
            is_cut = exc.reason == "unexpected end of data" and len(data) - exc.start < _LONGEST_CHARACTER
            if not is_cut:
                return {"base64": base64.b64encode(data).decode()}
            self._rest = data[exc.start :]
            return {"text": data[: exc.start].decode()} if exc.start else None

    def end(self) -> dict[str, str] | None:
        rest, self._rest = self._rest, b""
        return {"base64": base64.b64encode(rest).decode()} if rest else None


async def begun(frames: Frames) -> Frames:
    """Once the first one is there: what is refused before is an answer of its own, and not a broken stream."""
    try:
        first = await anext(frames)
    except BaseException:
        await frames.aclose()
        raise
    return _chained(first, frames)


async def _chained(first: LiveFrame, frames: Frames) -> Frames:
    async with aclosing(frames):
        yield first
        async for one in frames:
            yield one


async def ending_with_errors(frames: Frames) -> Frames:
    """What goes wrong once the answer has begun is its last event."""
    async with aclosing(frames):
        try:
            async for one in frames:
                yield one
        except AetherError as exc:
            yield frame("error", {**exc.details, "code": exc.code, "detail": exc.message, "retryable": exc.retryable})


def streamed(request: Request, services: Services, frames: Frames) -> SseResponse:
    """Ends when the client leaves or its key is revoked, and closes `frames`, which cancels what they came from."""
    items = kept_alive(ending_with_errors(frames))
    return SseResponse(while_allowed(items, bearer_token(request.scope), services.authenticator, services.clock))


class Sent(AsyncIterator[bytes]):
    """A stream of bytes whose first piece is there already."""

    def __init__(self, first: bytes | None, rest: AsyncIterator[bytes]) -> None:
        self._first = first
        self._rest = rest

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._rest)
