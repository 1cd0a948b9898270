"""What ends a WebSocket into a sandbox from our side: silence, a key that is revoked, the end of what it leads to."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.websockets import WebSocket

from serve_app.api.resources.sandboxes.links.service import Link
from serve_app.core.clock import SystemClock
from serve_app.core.errors import AetherError, TimedOutError, UnauthenticatedError


class Wire:
    """A WebSocket whose client sends what a test puts here."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent: list[MutableMapping[str, Any]] = []
        self.websocket = WebSocket(
            {"type": "websocket", "subprotocols": [], "headers": []}, self.incoming.get, self._send
        )

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    async def link(self, *, is_allowed: bool = True, **more: float) -> Link:
        async def allowed() -> bool:
            return is_allowed

        link = Link(self.websocket, allowed, SystemClock(), **more)
        await link.accept()
        return link


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("is_allowed", "idle_s", "error"), [(False, 60.0, UnauthenticatedError), (True, 0.05, TimedOutError)]
)
async def test_it_ends_by_itself(is_allowed: bool, idle_s: float, error: type[AetherError]) -> None:
    link = await Wire().link(is_allowed=is_allowed, idle_s=idle_s, recheck_s=0.01)
    with pytest.raises(error):
        await asyncio.wait_for(link.join(forever()), 5)


async def test_what_passes_keeps_it_open() -> None:
    wire = Wire()
    link = await wire.link(idle_s=0.2, recheck_s=0.01)

    async def typed() -> None:
        async for _ in link.received():
            pass

    joined = asyncio.create_task(link.join(typed(), forever()))
    for _ in range(10):
        wire.incoming.put_nowait({"type": "websocket.receive", "bytes": b"x"})
        await asyncio.sleep(0.05)
    assert not joined.done()
    wire.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await asyncio.wait_for(joined, 5)
    await link.end({"event": "exit"})


async def test_the_end_of_one_way_ends_the_others() -> None:
    link = await Wire().link()
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await forever()
        finally:
            ended.set()

    async def short() -> None:
        await asyncio.sleep(0.01)

    await asyncio.wait_for(link.join(short(), other()), 5)
    assert ended.is_set()


async def test_what_fails_on_the_way_is_told() -> None:
    link = await Wire().link()

    async def broken() -> None:
        raise TimedOutError("Silent.")

    with pytest.raises(TimedOutError):
        await asyncio.wait_for(link.join(broken(), forever()), 5)
