"""What binds one key, and what members of a group share: set through the API, obeyed by the router."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.core.db.engine import Database
from serve_app.core.stores.live.redis import RedisLiveEvents
from tests.apis import add_member, client_of, services_of
from tests.conftest import Server, Tenant
from tests.doubles.answers import Json, Silence
from tests.doubles.provider import Double
from tests.integration.routed import CHAT, HI, chat_answer, router_of
from tests.routers import RunningRouter, catalog_of, model, provider

PRICE = {"input": 10.0, "output": 20.0}
COST = Decimal("0.00025")
"""Of one answer of the double: eleven tokens read and seven written. At most 0.0004 are reserved for it."""
Ask = Callable[[], Coroutine[Any, Any, httpx.Response]]


@pytest.fixture(scope="module")
async def provider_double() -> AsyncIterator[Double]:
    async with Double() as double:
        yield double


@pytest.fixture(scope="module")
async def router(postgres: Server, valkey: Server, provider_double: Double) -> AsyncIterator[RunningRouter]:
    catalog = catalog_of(
        [provider("openai", f"{provider_double.url}/v1", "openai-chat")], [model("gpt", "openai", price=PRICE)]
    )
    async with router_of(postgres, valkey, catalog) as router:
        yield router


@pytest.fixture
def double(provider_double: Double) -> Double:
    provider_double.requests.clear()
    provider_double.plays(Json(chat_answer()))
    return provider_double


@pytest.fixture
async def api(
    database: Database, live: RedisLiveEvents, tmp_path: Path, tenant: Tenant
) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(services_of(database, live, tmp_path), tenant.key) as api:
        yield api


@pytest.fixture
async def asks(router: RunningRouter, double: Double) -> AsyncIterator[Callable[[str], Ask]]:
    """By API key: a function that asks the router."""
    async with AsyncExitStack() as stack:

        async def asking(key: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}"}
            return await client.post(CHAT, json={"model": "gpt", "messages": HI, "max_tokens": 5}, headers=headers)

        client = await stack.enter_async_context(httpx.AsyncClient(base_url=router.url, timeout=30))
        yield lambda key: lambda: asking(key)


async def becomes(ask: Ask, status: int) -> httpx.Response:
    """What was changed holds within two seconds."""
    async with asyncio.timeout(5):
        while (answer := await ask()).status_code != status:
            await asyncio.sleep(0.1)
    return answer


async def posted(api: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    answer = await api.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def limited(api: httpx.AsyncClient, scope: str, **limit: int) -> None:
    answer = await api.put(f"/api/v1/limits/{scope}", json=limit)
    assert answer.status_code == 200, answer.text


def code_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 429, answer.text
    return answer.json()["error"]["code"]


async def test_a_keys_limit_of_requests_binds_that_key_alone(
    api: httpx.AsyncClient, asks: Callable[[str], Ask], tenant: Tenant, double: Double
) -> None:
    made = await posted(api, "api-keys", name="narrow")
    narrow, wide = asks(made["key"]), asks(tenant.key)
    key_id = made["record"]["id"]
    await limited(api, f"key/{key_id}", requests_per_minute=2)
    first, second = await narrow(), await narrow()
    assert (first.headers["x-ratelimit-limit-requests"], second.headers["x-ratelimit-remaining-requests"]) == ("2", "0")
    third = await narrow()
    assert code_of(third) == "rate_limit_exceeded"
    assert 25 <= int(third.headers["retry-after"]) <= 30
    assert len(double.requests) == 2
    free = await wide()
    assert (free.status_code, "x-ratelimit-limit-requests" in free.headers) == (200, False)
    await api.delete(f"/api/v1/limits/key/{key_id}")
    await becomes(narrow, 200)


async def test_a_keys_places_are_its_own_and_are_freed(
    api: httpx.AsyncClient, asks: Callable[[str], Ask], tenant: Tenant, double: Double
) -> None:
    made = await posted(api, "api-keys", name="narrow")
    narrow, wide = asks(made["key"]), asks(tenant.key)
    await limited(api, f"key/{made['record']['id']}", concurrency=1)
    double.plays(Silence(), Json(chat_answer()))
    waiting = asyncio.create_task(narrow())
    await asyncio.wait_for(double.received(), 5)
    assert code_of(await narrow()) == "rate_limit_exceeded"
    assert (await wide()).status_code == 200
    waiting.cancel()
    await becomes(narrow, 200)


async def test_members_of_a_group_share_its_limit(
    api: httpx.AsyncClient, asks: Callable[[str], Ask], tenant: Tenant, postgres: Server
) -> None:
    member, outsider = await add_member(postgres, tenant), await add_member(postgres, tenant)
    group = (await posted(api, "groups", name="readers"))["id"]
    users = [tenant.caller.user_id, member.caller.user_id]
    assert (await api.put(f"/api/v1/groups/{group}/members", json={"user_ids": users})).status_code == 200
    await limited(api, f"group/{group}", requests_per_minute=2)
    assert [(await asks(one.key)()).status_code for one in (tenant, member, outsider)] == [200, 200, 200]
    for one in (tenant, member):
        assert code_of(await asks(one.key)()) == "rate_limit_exceeded"
    assert (await asks(outsider.key)()).status_code == 200


async def test_members_of_a_group_spend_its_budget_together(
    api: httpx.AsyncClient, asks: Callable[[str], Ask], tenant: Tenant, postgres: Server, double: Double
) -> None:
    member, outsider = await add_member(postgres, tenant), await add_member(postgres, tenant)
    group = (await posted(api, "groups", name="writers"))["id"]
    users = [tenant.caller.user_id, member.caller.user_id]
    assert (await api.put(f"/api/v1/groups/{group}/members", json={"user_ids": users})).status_code == 200
    budget = await posted(api, "budgets", scope_kind="group", scope_id=group, amount="0.0005", period="month")
    assert (await asks(tenant.key)()).status_code == 200
    assert code_of(await asks(member.key)()) == "insufficient_quota", "what the other spent is gone for both"
    assert len(double.requests) == 1
    assert (await asks(outsider.key)()).status_code == 200
    async with asyncio.timeout(5):
        while Decimal((await api.get("/api/v1/budgets")).json()["items"][0]["spent"]) != COST:
            await asyncio.sleep(0.05)
    await api.patch(f"/api/v1/budgets/{budget['id']}", json={"amount": "0.002"})
    await becomes(asks(member.key), 200)
    # Six more fit into it and twelve do not: nothing is spent beyond it, however they race.
    answers = await asyncio.gather(*(asks(one.key)() for one in (tenant, member) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {200, 429}
    granted = 2 + sum(answer.status_code == 200 for answer in answers)
    assert granted * COST <= Decimal("0.002")
    async with asyncio.timeout(5):
        while Decimal((await api.get("/api/v1/budgets")).json()["items"][0]["spent"]) != granted * COST:
            await asyncio.sleep(0.05)
