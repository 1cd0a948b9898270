"""Connectors through the API: for owners, their secrets never shown again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api.deps import Services
from serve_app.core.db.engine import Database
from serve_app.core.domain.ids import new_connector_id
from serve_app.core.stores.live.redis import RedisLiveEvents
from tests.apis import add_member, client_of, problem, services_of
from tests.conftest import Server, Tenant

PATH = "/api/v1/connectors"
CRM = {"name": "crm", "base_url": "https://crm.example/api", "secret": " very-secret\n", "path_prefixes": ["/v1"]}


@pytest.fixture
async def services(database: Database, live: RedisLiveEvents, tmp_path: Path) -> Services:
    return services_of(database, live, tmp_path)


@pytest.fixture
async def client(services: Services, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(services, tenant.key) as client:
        yield client


async def test_they_are_added_listed_and_deleted(
    client: httpx.AsyncClient, services: Services, tenant: Tenant, other_tenant: Tenant
) -> None:
    added = await client.post(PATH, json=CRM)
    assert added.status_code == 201, added.text
    made = added.json()
    assert {name: made[name] for name in ("name", "base_url", "header", "value_prefix", "methods", "path_prefixes")} == {
        "name": "crm", "base_url": "https://crm.example/api", "header": "Authorization", "value_prefix": "Bearer ",
        "methods": ["GET", "HEAD"], "path_prefixes": ["/v1"],
    }  # fmt: skip
    listed = await client.get(PATH)
    assert listed.json() == {"items": [made], "next_cursor": None}
    assert (await client.get(f"{PATH}/{made['id']}")).json() == made
    assert "very-secret" not in added.text + listed.text
    found = await services.connectors.find(tenant.caller.org_id, "crm")
    assert found is not None
    assert found.secret == b"very-secret"
    problem(await client.post(PATH, json=CRM), 409, "conflict")
    second = (await client.post(PATH, json={**CRM, "name": "b"})).json()
    page = (await client.get(PATH, params={"limit": 1})).json()
    assert (page["items"], page["next_cursor"]) == ([made], made["id"])
    rest = (await client.get(PATH, params={"limit": 1, "cursor": made["id"]})).json()
    assert rest["items"] == [second]
    async with client_of(services, other_tenant.key) as stranger:
        assert (await stranger.get(PATH)).json()["items"] == []
        for method in ("GET", "DELETE"):
            problem(await stranger.request(method, f"{PATH}/{made['id']}"), 404, "not_found")
    assert (await client.delete(f"{PATH}/{made['id']}")).status_code == 204
    problem(await client.delete(f"{PATH}/{made['id']}"), 404, "not_found")
    problem(await client.get(f"{PATH}/{new_connector_id()}"), 404, "not_found")


async def test_members_may_not(services: Services, postgres: Server, tenant: Tenant) -> None:
    member = await add_member(postgres, tenant)
    async with client_of(services, member.key) as client:
        for answer in (await client.get(PATH), await client.post(PATH, json=CRM), await client.delete(f"{PATH}/x")):
            problem(answer, 403, "forbidden")


@pytest.mark.parametrize(
    "change",
    [{"name": "Crm"}, {"base_url": "http://crm.example"}, {"base_url": "https://127.0.0.1/"}, {"secret": "short"},
     {"base_url": "https://user@crm.example"}, {"header": "Host"}, {"methods": ["TRACE"]}, {"path_prefixes": ["/../x"]},
     {"path_prefixes": []}, {"value_prefix": "a\r\nb"}, {"kind": "x"}, {"secret": "k7q9zz\nxx"}],
)  # fmt: skip
async def test_bad_ones_are_refused_without_repeating_the_secret(
    client: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    answer = await client.post(PATH, json=CRM | {"secret": "k7q9zz-1"} | change)
    problem(answer, 422, "invalid_request")
    assert "k7q9zz" not in answer.text
