"""Answers to requests that were asked before, word for word, in the same organisation. Off unless it opts in."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import orjson

from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import MisconfiguredError, UnavailableError
from serve_app.core.telemetry import get_logger
from serve_app.router.providers.base import Call


class CacheStore(Protocol):
    """Bytes that may be forgotten at any time."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, ttl_s: int) -> None: ...


@dataclass(frozen=True)
class Cached:
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def packed(self) -> bytes:
        return orjson.dumps([[name.decode(), value.decode()] for name, value in self.headers]) + b"\n" + self.body

    @classmethod
    def unpacked(cls, value: bytes) -> Self:
        headers, _, body = value.partition(b"\n")
        return cls(tuple((name.encode(), text.encode()) for name, text in orjson.loads(headers)), body)


class AnswerCache:
    """The organisation is part of every key: no answer crosses from one tenant to another."""

    MAX_BYTES: ClassVar[int] = 1024 * 1024

    def __init__(self, store: CacheStore) -> None:
        self._store = store
        self._keeping: set[asyncio.Task[None]] = set()

    async def find(self, org_id: OrgId, call: Call, candidate: str) -> Cached | None:
        try:
            value = await self._store.get(_key(org_id, call, candidate))
        except (UnavailableError, MisconfiguredError):
            return None
        return None if value is None else Cached.unpacked(value)

    def keep(self, org_id: OrgId, call: Call, candidate: str, answer: Cached, ttl_s: int) -> None:
        """In the background: the client waits for nothing of it."""
        if len(answer.body) > self.MAX_BYTES:
            return
        task = asyncio.create_task(self._put(_key(org_id, call, candidate), answer, ttl_s), name="keep answer")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _put(self, key: str, answer: Cached, ttl_s: int) -> None:
        try:
            await self._store.put(key, answer.packed(), ttl_s)
        except (UnavailableError, MisconfiguredError) as exc:
            get_logger().warning("answer not kept", reason=exc.message)

    async def close(self) -> None:
        await asyncio.gather(*self._keeping, return_exceptions=True)


def _key(org_id: OrgId, call: Call, candidate: str) -> str:
    """Everything the answer depends on: who would give it, in which dialect, to which words and headers."""
    asked = hashlib.sha256()
    for part in (candidate.encode(), *(item for pair in sorted(call.headers) for item in pair), call.body):
        asked.update(b"%d:" % len(part) + part)
    return f"{org_id}:{call.dialect.value}:{call.kind}:{asked.hexdigest()}"
