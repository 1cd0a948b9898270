"""What stands in for the world around the proxy: links in memory, name servers, stores of connectors, a clock."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from actors.sandbox.egress.links import Link
from serve_app.core.domain.connectors import OpenedConnector
from serve_app.core.domain.ids import OrgId


class MemoryLink:
    """One end of a pair. What is written at one is read at the other."""

    def __init__(self) -> None:
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self._has_ended = False
        self.other: MemoryLink | None = None
        self.is_closed = False

    async def read(self) -> bytes:
        if self._has_ended:
            return b""
        data = await self._incoming.get()
        self._has_ended = not data
        return data

    async def write(self, data: bytes) -> None:
        assert self.other is not None
        if self.is_closed or self.other.is_closed:
            raise ConnectionResetError
        self.other._incoming.put_nowait(data)

    def end(self) -> None:
        assert self.other is not None
        self.other._incoming.put_nowait(b"")

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.end()

    async def everything(self) -> bytes:
        pieces = []
        while data := await self.read():
            pieces.append(data)
        return b"".join(pieces)


def pair() -> tuple[MemoryLink, MemoryLink]:
    one, other = MemoryLink(), MemoryLink()
    one.other, other.other = other, one
    return one, other


class ScriptedResolver:
    """Answers from a table; a list of lists gives one answer after the other."""

    def __init__(self, **answers: Sequence[str] | Sequence[Sequence[str]]) -> None:
        self.answers: dict[str, Sequence[str] | Sequence[Sequence[str]]] = {}
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None
        for name, answer in answers.items():
            self.answers[name.replace("_", ".")] = answer

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.get(host)
        if answer is None:
            raise OSError("no such name")
        if answer and not isinstance(answer[0], str):
            turn = min(self.asked.count(host), len(answer)) - 1
            return [str(text) for text in answer[turn]]
        return [str(text) for text in answer]

    def close(self) -> None:
        """It holds nothing."""


class FixedConnectors:
    """A store of connectors that counts how often it is asked."""

    def __init__(self, *opened: OpenedConnector) -> None:
        self.opened = {one.connector.name: one for one in opened}
        self.asked = 0

    async def find(self, org_id: OrgId, name: str) -> OpenedConnector | None:
        self.asked += 1
        return self.opened.get(name)


class Hands:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    def monotonic(self) -> float:
        return self.at


class CountedMetrics:
    def __init__(self) -> None:
        self.counted: dict[str, float] = {}

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        key = ",".join([name, *(f"{tag}={word}" for tag, word in sorted(tags.items()))])
        self.counted[key] = self.counted.get(key, 0) + value

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Nothing here is observed."""


class QueuedOffers:
    """Programs connect by putting their link here."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Link] = asyncio.Queue()
        self.failures: list[Exception] = []
        self.open = 0

    async def egress_offer(self) -> Link:
        if self.failures:
            raise self.failures.pop()
        self.open += 1
        try:
            return await self.waiting.get()
        finally:
            self.open -= 1


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not claim():
            await asyncio.sleep(0.01)
