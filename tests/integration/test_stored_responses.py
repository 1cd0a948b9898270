"""Stored responses in a real PostgreSQL: conversations, expiry, tenancy."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.responses import SqlResponseRepository
from serve_app.core.domain.callers import Caller
from serve_app.core.errors import InvalidRequestError, NotFoundError
from serve_app.router.conversation import Conversations
from tests.conftest import Tenant

SENT = [{"role": "user", "content": "Hi"}]


def name(tenant: Tenant, number: int) -> str:
    return f"resp_{tenant.caller.org_id[4:]}{number}"


async def store(
    responses: SqlResponseRepository, caller: Caller, response_id: str, previous: str | None = None, **more: Any
) -> None:
    body = {"id": response_id, "previous_response_id": previous, "output": [], "text": more.get("text", "")}
    expires_at = datetime.now(UTC) + timedelta(seconds=more.get("expires_in_s", 60))
    await responses.put(caller.org_id, response_id, caller.user_id, expires_at, body, more.get("items", SENT))


async def test_what_is_put_is_got_once_and_deleted(database: Database, tenant: Tenant) -> None:
    responses, caller, response_id = SqlResponseRepository(database), tenant.caller, name(tenant, 1)
    await store(responses, caller, response_id, text="first")
    await store(responses, caller, response_id, text="second")
    got = await responses.get(caller.org_id, response_id)
    assert (got.body["text"], got.input, got.user_id) == ("first", tuple(SENT), caller.user_id)
    await responses.delete(caller.org_id, response_id)
    for ask in (responses.get, responses.delete):
        with pytest.raises(NotFoundError):
            await ask(caller.org_id, response_id)


async def test_another_organisation_sees_and_deletes_nothing(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    responses, response_id = SqlResponseRepository(database), name(tenant, 1)
    await store(responses, tenant.caller, response_id)
    other = other_tenant.caller.org_id
    for ask in (responses.get, responses.delete):
        with pytest.raises(NotFoundError):
            await ask(other, response_id)
    assert await responses.find(other, [response_id]) == []
    assert await responses.chain(other, response_id, 10, 10**6) == []
    assert await responses.get(tenant.caller.org_id, response_id)


async def test_a_conversation_does_not_pass_into_another_organisation(
    database: Database, tenant: Tenant, other_tenant: Tenant
) -> None:
    responses = SqlResponseRepository(database)
    await store(responses, tenant.caller, name(tenant, 1))
    await store(responses, other_tenant.caller, name(other_tenant, 1), previous=name(tenant, 1))
    chain = await responses.chain(other_tenant.caller.org_id, name(other_tenant, 1), 10, 10**6)
    assert [turn.id for turn in chain] == [name(other_tenant, 1)]


async def test_one_that_has_expired_is_not_there(database: Database, tenant: Tenant) -> None:
    responses, org_id = SqlResponseRepository(database), tenant.caller.org_id
    await store(responses, tenant.caller, name(tenant, 1), expires_in_s=-1)
    await store(responses, tenant.caller, name(tenant, 2), previous=name(tenant, 1))
    with pytest.raises(NotFoundError):
        await responses.get(org_id, name(tenant, 1))
    assert [turn.id for turn in await responses.chain(org_id, name(tenant, 2), 10, 10**6)] == [name(tenant, 2)]


async def test_a_chain_is_walked_oldest_first_and_bounded(database: Database, tenant: Tenant) -> None:
    responses, org_id = SqlResponseRepository(database), tenant.caller.org_id
    ids = [name(tenant, number) for number in range(6)]
    for previous, response_id in zip([None, *ids], ids, strict=False):
        items = [{"role": "user", "content": "x" * 1000}]
        await store(responses, tenant.caller, response_id, previous=previous, items=items)
    assert [turn.id for turn in await responses.chain(org_id, ids[-1], 10, 10**6)] == ids
    assert [turn.id for turn in await responses.chain(org_id, ids[-1], 2, 10**6)] == ids[-3:]
    assert [turn.id for turn in await responses.chain(org_id, ids[-1], 10, 2500)] == ids[-3:]


async def test_a_nul_that_a_tool_printed_is_stored(database: Database, tenant: Tenant) -> None:
    responses, org_id = SqlResponseRepository(database), tenant.caller.org_id
    items = [{"type": "function_call_output", "call_id": "c", "output": "a\0b \\u0000"}]
    await store(responses, tenant.caller, name(tenant, 1), items=items)
    assert (await responses.get(org_id, name(tenant, 1))).input[0]["output"] == "a\ufffdb \\u0000"


async def test_a_conversation_goes_on(database: Database, tenant: Tenant) -> None:
    conversations, caller = Conversations(SqlResponseRepository(database), SystemClock()), tenant.caller
    answer = {"type": "message", "id": "msg_1", "role": "assistant", "content": "Hello."}
    body = {"id": name(tenant, 1), "status": "completed", "output": [answer]}
    await conversations.remember(caller.org_id, caller.user_id, {"model": "m", "input": SENT}, body)
    raw = {"model": "m", "previous_response_id": body["id"], "input": SENT}
    many = await asyncio.gather(*(conversations.resolve(caller.org_id, raw) for _ in range(20)))
    assert all(resolved == {"model": "m", "input": [*SENT, answer, *SENT]} for resolved in many)
    await conversations.delete(caller.org_id, name(tenant, 1))
    with pytest.raises(InvalidRequestError):
        await conversations.resolve(caller.org_id, raw)
