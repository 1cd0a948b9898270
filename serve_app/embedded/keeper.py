"""Keeps one server running: starts it again, with a growing pause, whenever it dies."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from serve_app.embedded.children import Child
from serve_app.embedded.failures import StartError

_log = logging.getLogger(__name__)


class Server(Protocol):
    """One server process with its files."""

    name: str

    @property
    def url(self) -> str: ...

    async def start(self) -> Child: ...

    async def stop(self, child: Child) -> None: ...


class Keeper:
    """Owns the process of one server."""

    def __init__(
        self, server: Server, on_change: Callable[[], None], *, first_pause_s: float = 0.1, longest_pause_s: float = 5.0
    ) -> None:
        self.server = server
        self.child: Child | None = None
        self.restarts = 0
        self._on_change = on_change
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """The first start; its failure is the caller's to handle."""
        self.child = await self.server.start()
        self._on_change()
        self._watch = asyncio.create_task(self._keep(self.child))

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self.child is not None and self.child.is_alive:
            await self.server.stop(self.child)

    async def _keep(self, child: Child) -> None:
        pause_s = self._first_pause_s
        while True:
            began = time.monotonic()
            code = await child.wait()
            if time.monotonic() - began > 30.0:
                pause_s = self._first_pause_s
            died = time.monotonic()
            _log.warning("%s (pid %d) ended with %d; starting it again", self.server.name, child.pid, code)
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, self._longest_pause_s)
                try:
                    child = await self.server.start()
                except (StartError, OSError) as exc:
                    _log.error("%s did not start: %s", self.server.name, exc)
                    continue
                break
            self.child = child
            self.restarts += 1
            _log.warning("%s is back (pid %d) after %.2f s", self.server.name, child.pid, time.monotonic() - died)
            self._on_change()
