"""Working for a client only as long as it is there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from serve_app.core.services.requests import ClientGoneError
from serve_app.core.telemetry.asgi import Receive

_T = TypeVar("_T")


async def while_present(work: Coroutine[Any, Any, _T], receive: Receive) -> _T:
    """Run `work` to its end, or cancel it as soon as the client disconnects. The body must have been read.

    Raises:
        ClientGoneError: the client left first; `work` has cleaned up by then.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
