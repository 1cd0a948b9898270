"""Answers to requests that were asked before, word for word, in the same organisation. Off unless it opts in."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

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
    content_type: str
    body: bytes

    @classmethod
    def of(cls, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Self:
        return cls(dict(headers).get(b"content-type", b"application/json").decode("latin-1"), body)

    def packed(self) -> bytes:
        return self.content_type.encode("latin-1") + b"\n" + self.body

    @classmethod
    def unpacked(cls, value: bytes) -> Self:
        content_type, _, body = value.partition(b"\n")
        return cls(content_type.decode("latin-1"), body)


class AnswerCache:
    """The organisation is part of every key: no answer crosses from one tenant to another."""

    MAX_BYTES: ClassVar[int] = 1024 * 1024

    def __init__(self, store: CacheStore) -> None:
        self._store = store
        self._keeping: set[asyncio.Task[None]] = set()

    async def find(self, org_id: OrgId, call: Call) -> Cached | None:
        try:
            value = await self._store.get(_key(org_id, call))
        except (UnavailableError, MisconfiguredError):
            return None
        return None if value is None else Cached.unpacked(value)

    def keep(self, org_id: OrgId, call: Call, answer: Cached, ttl_s: int) -> None:
        """In the background: the client waits for nothing of it."""
        if len(answer.body) > self.MAX_BYTES:
            return
        task = asyncio.create_task(self._put(_key(org_id, call), answer, ttl_s), name="keep answer")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _put(self, key: str, answer: Cached, ttl_s: int) -> None:
        try:
            await self._store.put(key, answer.packed(), ttl_s)
        except (UnavailableError, MisconfiguredError) as exc:
            get_logger().warning("answer not kept", reason=exc.message)

    async def close(self) -> None:
        await asyncio.gather(*self._keeping, return_exceptions=True)


def _key(org_id: OrgId, call: Call) -> str:
    return f"{org_id}:{call.dialect.value}:{call.kind}:{hashlib.sha256(call.body).hexdigest()}"
