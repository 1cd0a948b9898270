"""The request log: what organisations that ask for it can read later about their calls, secrets left out."""

import asyncio
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import orjson

from serve_app.core.domain.ids import OrgId, UserId
from serve_app.core.errors import AetherError
from serve_app.core.telemetry import get_logger

_MAX_WAITING_BYTES = 32 * 1024 * 1024
_ROW_BYTES = 1_000
_MAX_BODY_BYTES = 256 * 1024
_BATCH = 200
_EVERY_S = 0.5
REDACTED = "[redacted]"

_SECRETS = re.compile(
    r"\b(?:sk|pk|rk|aek|aet|gsk|xai|ghp|gho|ghs|glpat|hf|xox[abprs])[-_][A-Za-z0-9_-]{16,}"  # keys that say what they are
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{35}\b"  # of Amazon and of Google
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r"|(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}+@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"  # mail addresses
    r"|\b(?:\d[ -]?){13,19}\b"  # card numbers
)


@dataclass(frozen=True)
class Logged:
    """One call. `request` and `answer` only where the organisation asked for them."""

    id: str
    org_id: OrgId
    user_id: UserId
    at: datetime
    model: str
    provider: str
    dialect: str
    status: int
    duration_ms: int
    overhead_ms: float
    request: bytes | None
    answer: bytes | None


class RequestLogRepository(Protocol):
    async def append_log(self, rows: Sequence[Mapping[str, Any]]) -> None: ...


class RequestLog:
    """Written in batches. It is for reading, not for accounts: when the database is away for long, new ones are left
    out, and bodies of more than 256 KiB are only counted."""

    def __init__(self, repository: RequestLogRepository) -> None:
        self._repository = repository
        self._waiting: deque[Logged] = deque()
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._something = asyncio.Event()

    def add(self, row: Logged) -> None:
        row = replace(row, request=_bounded(row.request), answer=_bounded(row.answer))
        if self._waiting_bytes > _MAX_WAITING_BYTES:
            return
        self._waiting_bytes += _size(row)
        self._waiting.append(row)
        self._something.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_forever(), name="request log")

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(AetherError):
            await self._write()

    async def _write_forever(self) -> None:
        while True:
            await self._something.wait()
            await asyncio.sleep(_EVERY_S)
            self._something.clear()
            try:
                await self._write()
            except AetherError as exc:
                get_logger().warning("request log waits", reason=exc.message)
                self._something.set()

    async def _write(self) -> None:
        while self._waiting:
            rows = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                # Looking for secrets takes a while, and the loop has others to serve.
                await self._repository.append_log(await asyncio.to_thread(lambda: [_row(row) for row in rows]))  # noqa: B023 - awaited here
            except AetherError:
                self._waiting.extendleft(reversed(rows))
                raise
            self._waiting_bytes -= sum(map(_size, rows))


def _row(row: Logged) -> dict[str, Any]:
    return {
        "id": row.id,
        "org_id": row.org_id,
        "user_id": row.user_id,
        "at": row.at.isoformat(),
        "model": row.model,
        "provider": row.provider,
        "dialect": row.dialect,
        "status": row.status,
        "duration_ms": row.duration_ms,
        "overhead_ms": row.overhead_ms,
        "request": None if row.request is None else redacted(_parsed(row.request)),
        "answer": None if row.answer is None else redacted(_parsed(row.answer)),
    }


def _bounded(body: bytes | None) -> bytes | None:
    if body is None or len(body) <= _MAX_BODY_BYTES:
        return body
    return orjson.dumps({"left_out": f"{len(body)} bytes"})


def _size(row: Logged) -> int:
    return _ROW_BYTES + len(row.request or b"") + len(row.answer or b"")


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


def redacted(value: Any) -> Any:
    """The same with everything that looks like a secret, a mail address or a card taken out."""
    match value:
        case str():
            # PostgreSQL's JSON holds no NUL.
            return _SECRETS.sub(REDACTED, value).replace("\x00", "")
        case Mapping():
            return {
                _SECRETS.sub(REDACTED, str(name)).replace("\x00", ""): redacted(item) for name, item in value.items()
            }
        case list() | tuple():
            return [redacted(item) for item in value]
        case _:
            return value
