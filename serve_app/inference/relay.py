"""Hands what an engine's thread writes to the event loop in few, larger pieces."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

_INTERVAL_S = 0.03


class Relay:
    """One writer thread, one reader in the loop.

    The first piece goes at once; after it, what gathers in `interval_s` goes together. So the loop wakes, and a
    process is crossed, once a batch and not once a token.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float = _INTERVAL_S) -> None:
        self._loop = loop
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._parts: list[bytes] = []
        self._has_ended = False
        self._error: Exception | None = None
        self._is_awaited = False
        self._wake = asyncio.Event()

    def put(self, part: bytes) -> None:
        """Called by the writer."""
        with self._lock:
            self._parts.append(part)
            is_awaited, self._is_awaited = self._is_awaited, False
        if is_awaited:
            self._call_loop(self._wake.set)

    def end(self, error: Exception | None) -> None:
        """Called by the writer, last. `error` is raised to the reader after all that was written."""
        with self._lock:
            self._has_ended, self._error = True, error
            self._is_awaited = False
        self._call_loop(self._wake.set)

    async def batches(self) -> AsyncIterator[bytes]:
        while True:
            with self._lock:
                parts, self._parts = self._parts, []
                has_ended = self._has_ended
                # With parts in hand the reader first sends them; it asks to be woken once it is back.
                self._is_awaited = not parts and not has_ended
            if parts:
                gathered_at = self._loop.time() + self._interval_s
                yield b"".join(parts)
                if not has_ended:
                    await self._pause(gathered_at)
            elif not has_ended:
                await self._wake.wait()
                self._wake.clear()
            if has_ended:
                if self._error is not None:
                    raise self._error
                return

    async def _pause(self, until: float) -> None:
        """Let more gather, but not past the end."""
        timer = self._loop.call_at(until, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    def _call_loop(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # The loop has closed: nobody reads any more.
            return
