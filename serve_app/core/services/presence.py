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
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watching = asyncio.create_task(watch(), name="presence")
    try:
        return await work
    except asyncio.CancelledError:
        # Ours, unless somebody else wanted this task to end as well.
        if is_gone and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        # It has either ended or waits for a message that nobody needs any more.
        watching.cancel()
