"""How many bytes a sandbox may move, how often it may ask, and how much of both it has used."""

import asyncio
from dataclasses import dataclass

from serve_app.core.clock import Clock
from serve_app.core.errors import EgressDeniedError


class Allowance:
    """The bytes of one sandbox, both ways together, over its life."""

    def __init__(self, limit_bytes: int, spent_bytes: int = 0) -> None:
        self._limit_bytes = limit_bytes
        self.spent_bytes = spent_bytes

    def check(self) -> None:
        """Raises `EgressDeniedError` when nothing is left."""
        if self.spent_bytes >= self._limit_bytes:
            raise EgressDeniedError(
                f"This sandbox has used the {self._limit_bytes} bytes it may move over its life "
                "(`egress.bytes` of its profile). Work in a new sandbox, or ask the operator for more.",
                reason="bytes",
            )

    def take(self, size_bytes: int) -> int:
        """How many of these may move. Raises `EgressDeniedError` when none may."""
        self.check()
        taken = min(size_bytes, self._limit_bytes - self.spent_bytes)
        self.spent_bytes += taken
        return taken


@dataclass
class Traffic:
    """What one visit to the outside moved, paid from the sandbox's allowance."""

    allowance: Allowance
    up_bytes: int = 0
    down_bytes: int = 0

    def goes_up(self, size_bytes: int) -> None:
        """Raises `EgressDeniedError` when less than this is left: half a write would be another message."""
        taken = self.allowance.take(size_bytes)
        self.up_bytes += taken
        if taken < size_bytes:
            self.allowance.check()

    def came_down(self, data: bytes) -> bytes:
        """As much of it as the sandbox may still have."""
        if not data:
            return data
        taken = self.allowance.take(len(data))
        self.down_bytes += taken
        return data if taken == len(data) else data[:taken]


class Pace:
    """A bucket of turns that fills with time. Requests wait for one: each of them writes a line to the log."""

    def __init__(self, clock: Clock, *, per_s: float, burst: int) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._turns = float(burst)
        self._filled_at = clock.monotonic()

    async def turn(self) -> None:
        """Turns are taken at once and waited for afterwards, so that those who wait come in order."""
        now = self._clock.monotonic()
        self._turns = min(float(self._burst), self._turns + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        self._turns -= 1
        if self._turns < 0:
            await asyncio.sleep(-self._turns / self._per_s)
