"""Short pieces of work that nobody waits for, owned so that they end with their owner."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from serve_app.core.errors import AetherError
from serve_app.core.telemetry import get_logger


class Chores:
    """One that fails is told in the log and harms no other."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_told(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _told(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except AetherError as exc:
        get_logger().warning("sandbox not tended", code=exc.code, reason=exc.message)
    except Exception as exc:  # noqa: BLE001 - one sandbox that cannot be tended must not leave the others untended
        get_logger().exception("sandbox not tended", exc_info=exc)
