"""What nobody asks for and somebody must do: stored responses whose time is over are forgotten."""

import asyncio
import random
from typing import Protocol

from serve_app.core.errors import AetherError
from serve_app.core.telemetry import get_logger

_EVERY_S = 3600.0


class Forgetful(Protocol):
    async def forget_expired_responses(self) -> int: ...


class Housekeeping:
    """One a replica; several doing the same at once is harmless."""

    def __init__(self, repository: Forgetful, every_s: float = _EVERY_S) -> None:
        self._repository = repository
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="housekeeping")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            # Replicas that started together do not all come at the same moment.
            await asyncio.sleep(self._every_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            try:
                forgotten = await self._repository.forget_expired_responses()
            except AetherError as exc:
                get_logger().warning("expired responses not forgotten", reason=exc.message)
                continue
            if forgotten:
                get_logger().info("expired responses forgotten", responses=forgotten)
