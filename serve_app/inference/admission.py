"""Who may use a model now, who waits, and who is told to come back."""

import asyncio
from collections import deque

from serve_app.core.errors import OverloadedError


class Admission:
    """First come, first served. What runs at once fits both `slots` and a shared pool of `pool_tokens`.

    The pool matters: an engine whose slots share one context fails every running answer when it overflows.
    Lives in one event loop.
    """

    def __init__(self, slots: int, pool_tokens: int, max_queued: int) -> None:
        self._free_slots = slots
        self._free_tokens = pool_tokens
        self._pool_tokens = pool_tokens
        self._max_queued = max_queued
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def queued(self) -> int:
        return len(self._queue)

    def fitting(self, tokens: int) -> int:
        """What a request that wants `tokens` may hold: never more than the pool, or it would wait forever."""
        return min(tokens, self._pool_tokens)

    async def enter(self, tokens: int) -> None:
        """Wait for a slot and `tokens` of the pool. A caller that is cancelled while it waits holds nothing.

        Raises:
            OverloadedError: at once, when too many wait already.
        """
        if not self._queue and self._fits(tokens):
            self._take(tokens)
            return
        if len(self._queue) >= self._max_queued:
            raise OverloadedError("Too many requests wait for this model. Try again in a moment.", queued=self.queued)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (turn, tokens)
        self._queue.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(tokens)
            elif entry in self._queue:
                self._queue.remove(entry)
                self._admit()
            raise

    def resize(self, old: int, new: int) -> bool:
        """Change what a running request holds. False, and no change, when it wants more than is free."""
        if new - old > self._free_tokens:
            return False
        self._free_tokens -= new - old
        self._admit()
        return True

    def leave(self, tokens: int) -> None:
        """Give back a slot and the rest of what the request held."""
        self._free_slots += 1
        self._free_tokens += tokens
        self._admit()

    def _fits(self, tokens: int) -> bool:
        return self._free_slots > 0 and tokens <= self._free_tokens

    def _take(self, tokens: int) -> None:
        self._free_slots -= 1
        self._free_tokens -= tokens

    def _admit(self) -> None:
        while self._queue and self._fits(self._queue[0][1]):
            turn, tokens = self._queue.popleft()
            if turn.cancelled():
                # Its task was cancelled and has not run since; nothing was taken for it.
                continue
            self._take(tokens)
            turn.set_result(None)
