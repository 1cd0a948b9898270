"""A router before a provider that is a double, and what the tests of it say and look at."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from redis.asyncio import Redis

from configs.catalog import Catalog
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.domain.spending import LedgerEntry
from serve_app.router.replica import RouterReplica
from tests.conftest import Server, Tenant
from tests.routers import RunningRouter, running_router, settings

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
HI = [{"role": "user", "content": "hi"}]


def chat_answer(text: str = "hi", *, read: int = 11, written: int = 7, **usage: Any) -> dict[str, Any]:
    """What an OpenAI-compatible provider says. `usage` is added to its usage."""
    return {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "upstream",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written, **usage},
    }  # fmt: skip


def message_answer(*content: dict[str, Any], stop: str = "end_turn", **usage: int) -> dict[str, Any]:
    """What Anthropic says."""
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "upstream", "stop_reason": stop,
        "stop_sequence": None, "content": list(content) or [{"type": "text", "text": "hi"}],
        "usage": {"input_tokens": 5, "output_tokens": 2, **usage},
    }  # fmt: skip


def words(*said: str) -> bytes:
    """The beginning of a Chat Completions stream."""
    chunk = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
    return b"".join(chunk % word.encode() for word in said)


DONE = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@dataclass(frozen=True)
class Routed:
    """`client` is a plain HTTP client that has the tenant's key."""

    url: str
    replica: RouterReplica
    client: httpx.AsyncClient
    tenant: Tenant
    database: Database

    async def chat(self, model: str = "gpt", **more: Any) -> httpx.Response:
        return await self.client.post(CHAT, json={"model": model, "messages": HI, **more})

    async def message(self, model: str = "claude", **more: Any) -> httpx.Response:
        return await self.client.post(MESSAGES, json={"model": model, "messages": HI, "max_tokens": 50, **more})

    async def entries(self, count: int = 1) -> list[LedgerEntry]:
        """The newest first, as soon as there are so many."""
        ledger = SqlLedgerRepository(self.database)
        async with asyncio.timeout(5):
            while len(found := await ledger.page(self.tenant.caller.org_id, 100)) < count:
                await asyncio.sleep(0.02)
        return list(found)

    async def entry_of(self, answer: httpx.Response) -> LedgerEntry:
        async with asyncio.timeout(5):
            while True:
                for entry in await self.entries():
                    if entry.request_id == answer.headers["x-request-id"]:
                        return entry
                await asyncio.sleep(0.02)

    async def entry(self) -> LedgerEntry:
        """The only one."""
        (entry,) = await self.entries()
        return entry


@asynccontextmanager
async def router_of(
    postgres: Server,
    valkey: Server,
    catalog: Catalog,
    keys: Mapping[str, str] | None = None,
    *,
    max_body_bytes: int | None = None,
    **gateway: Any,
) -> AsyncIterator[RunningRouter]:
    """`gateway` are settings of its group."""
    made_of = settings(postgres.url, valkey.url, **gateway)
    if max_body_bytes is not None:
        http = made_of.http.model_copy(update={"max_body_bytes": max_body_bytes})
        made_of = made_of.model_copy(update={"http": http})
    async with running_router(made_of, catalog, keys) as router:
        yield router


@asynccontextmanager
async def used_by(tenant: Tenant, router: RunningRouter, database: Database) -> AsyncIterator[Routed]:
    """A router outlives a test, a tenant does not."""
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with httpx.AsyncClient(base_url=router.url, headers=headers, timeout=30) as client:
        yield Routed(router.url, router.replica, client, tenant, database)


async def all_rested(valkey: Server) -> None:
    """Providers' keys have the same names in every test: none rests because of what another test did."""
    async with Redis.from_url(valkey.url) as store:
        for pattern in ("*:health:*", "*:retries:*"):
            async for key in store.scan_iter(pattern):
                await store.delete(key)
