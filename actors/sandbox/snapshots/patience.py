"""How long a workspace may take to be read or written: by how much it is, not by how its sandbox behaves."""

import asyncio
from types import TracebackType
from typing import Self

from serve_app.core.errors import TimedOutError

_FIRST_S = 60.0
_EACH_FILE_S = 0.01
_BYTES_PER_S = 1024 * 1024


class Patience:
    """An async context manager that raises `TimedOutError`. Few captures run at a time: none may hold others up."""

    def __init__(self, first_s: float = _FIRST_S) -> None:
        self._granted_s = first_s
        self._started = 0.0
        self._timeout = asyncio.timeout(None)
        self._next_look: asyncio.TimerHandle | None = None

    def grow(self, *, files: int = 0, size_bytes: int = 0) -> None:
        """So much more is to be done, or was done."""
        self._granted_s += files * _EACH_FILE_S + size_bytes / _BYTES_PER_S

    async def __aenter__(self) -> Self:
        self._started = asyncio.get_running_loop().time()
        await self._timeout.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, exc, trace)
        except TimeoutError as timeout:
            raise TimedOutError("The sandbox took too long for so few files.") from timeout
        finally:
            if self._next_look:
                self._next_look.cancel()

    def _look(self) -> None:
        """When what was granted is over, unless more was granted since."""
        loop = asyncio.get_running_loop()
        end = self._started + self._granted_s
        if end <= loop.time():
            self._timeout.reschedule(end)
        else:
            self._next_look = loop.call_at(end, self._look)
