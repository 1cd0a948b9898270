"""What owners set for calls to models, through the API: limits, budgets, groups, keys, policy; and who sees usage."""

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api.deps import Services
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.ledger import encode_entry
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import new_budget_id, new_group_id, new_ledger_id, new_provider_key_id, new_user_id
from serve_app.core.domain.spending import LedgerEntry, Outcome, Price, Usage
from serve_app.core.services.sealing import seal_context
from serve_app.core.stores.live.redis import RedisLiveEvents
from tests.apis import add_member, client_of, problem, services_of
from tests.conftest import Server, Tenant

NANOS = 10**9


@pytest.fixture
async def services(database: Database, live: RedisLiveEvents, tmp_path: Path) -> Services:
    return services_of(database, live, tmp_path)


@pytest.fixture
async def client(services: Services, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(services, tenant.key) as client:
        yield client


@pytest.fixture
async def stranger(services: Services, other_tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(services, other_tenant.key) as client:
        yield client


def entry(caller: Caller, at: datetime, cost: int, **more: Any) -> LedgerEntry:
    fields: dict[str, Any] = {
        "id": new_ledger_id(), "org_id": caller.org_id, "user_id": caller.user_id, "key_id": caller.key_id, "at": at,
        "model": "small", "provider": "vendor", "credential": "env:SECRET_NAME", "dialect": "openai-chat",
        "outcome": Outcome.COMPLETED, "usage": Usage(10, 5, 4, 0, 2), "is_estimated": False, "cost": cost,
        "reserved": cost, "price": Price(1, 2), "duration_ms": 7,
    }  # fmt: skip
    return LedgerEntry(**(fields | more))


async def pages(client: httpx.AsyncClient, path: str, limit: int) -> list[dict[str, Any]]:
    """Everything a list holds, read `limit` at a time."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get(path, params={"limit": limit, **cursor})).json()
        assert len(page["items"]) <= limit
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {"cursor": page["next_cursor"]}


async def test_limits_are_set_replaced_listed_and_deleted(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, tenant: Tenant
) -> None:
    group = (await client.post("/api/v1/groups", json={"name": "readers"})).json()["id"]
    key = (await client.get("/api/v1/api-keys")).json()["items"][0]["id"]
    scopes = {
        "group": group, "key": key, "organisation": tenant.caller.org_id, "user": tenant.caller.user_id
    }  # fmt: skip
    for kind, id_ in scopes.items():
        assert (await client.put(f"/api/v1/limits/{kind}/{id_}", json={"concurrency": 1})).status_code == 200
    made = await client.put(f"/api/v1/limits/user/{scopes['user']}", json={"requests_per_minute": 60})
    assert made.json() == {
        "scope_kind": "user", "scope_id": scopes["user"], "requests_per_minute": 60, "tokens_per_minute": None,
        "concurrency": None,
    }  # fmt: skip
    found = await pages(client, "/api/v1/limits", 2)
    assert {one["scope_kind"]: one["scope_id"] for one in found} == scopes
    assert (await stranger.get("/api/v1/limits")).json()["items"] == []
    for kind, id_ in scopes.items():
        problem(await stranger.put(f"/api/v1/limits/{kind}/{id_}", json={"concurrency": 1}), 404, "not_found")
        problem(await stranger.delete(f"/api/v1/limits/{kind}/{id_}"), 404, "not_found")
    path = f"/api/v1/limits/user/{scopes['user']}"
    assert (await client.delete(path)).status_code == 204
    problem(await client.delete(path), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "body"), ({"concurrency": 0}, "body.concurrency"), ({"tokens_per_minute": 10**13}, "body.tokens_per_minute"),
     ({"requests_per_minute": 1.5}, "body.requests_per_minute"), ({"requests": 1}, "body.requests")],
)  # fmt: skip
async def test_bad_limits_name_the_field(
    client: httpx.AsyncClient, tenant: Tenant, body: dict[str, Any], field: str
) -> None:
    answer = await client.put(f"/api/v1/limits/user/{tenant.caller.user_id}", json=body)
    assert problem(answer, 422, "invalid_request")["errors"][0]["where"] == field


async def test_scopes_that_are_none_are_not_found(client: httpx.AsyncClient) -> None:
    for scope in (
        f"user/{new_user_id()}",
        f"group/{new_group_id()}",
        "key/x",
        "credential/x",
        "organisation/org_%00",
        "user/ü",
    ):
        problem(await client.put(f"/api/v1/limits/{scope}", json={"concurrency": 1}), 404, "not_found")
        problem(await client.delete(f"/api/v1/limits/{scope}"), 404, "not_found")
    problem(await client.put("/api/v1/limits/team/x", json={"concurrency": 1}), 422, "invalid_request")
    problem(await client.get("/api/v1/limits", params={"cursor": "x' OR 1=1"}), 404, "not_found")


async def test_budgets_tell_what_is_spent_of_them(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, services: Services, tenant: Tenant
) -> None:
    user, now = tenant.caller.user_id, datetime.now(UTC)
    ask = {"scope_kind": "user", "scope_id": user, "amount": "12.50", "period": "day"}
    budget = (await client.post("/api/v1/budgets", json=ask)).json()
    assert budget == {**ask, "id": budget["id"], "spent": "0.00"}
    total = (await client.post("/api/v1/budgets", json={**ask, "period": "total", "amount": "0"})).json()
    long_ago = entry(tenant.caller, now - timedelta(days=40), 2 * NANOS)
    await services.ledger.append([encode_entry(long_ago), encode_entry(entry(tenant.caller, now, NANOS // 2 + 1))])
    found = {one["id"]: one for one in await pages(client, "/api/v1/budgets", 1)}
    assert found[budget["id"]]["spent"] == "0.500000001"
    assert (found[total["id"]]["spent"], found[total["id"]]["amount"]) == ("2.500000001", "0.00")
    path = f"/api/v1/budgets/{budget['id']}"
    changed = (await client.patch(path, json={"amount": "0.000000001"})).json()
    assert (changed["amount"], changed["spent"]) == ("0.000000001", "0.500000001")
    problem(await stranger.patch(path, json={"amount": "1"}), 404, "not_found")
    problem(await stranger.delete(path), 404, "not_found")
    problem(await stranger.post("/api/v1/budgets", json=ask), 404, "not_found")
    assert (await client.delete(path)).status_code == 204
    problem(await client.delete(path), 404, "not_found")
    problem(await client.patch(f"/api/v1/budgets/{new_budget_id()}", json={"amount": "1"}), 404, "not_found")
    problem(await client.delete("/api/v1/budgets/x"), 404, "not_found")


@pytest.mark.parametrize(
    "amount", ["", "-1", "1,50", "1e3", "NaN", "Infinity", "0.0000000001", "9000000.01", "99999999", "１", " 1", 1.5, None]
)  # fmt: skip
async def test_amounts_that_are_none_are_refused(client: httpx.AsyncClient, tenant: Tenant, amount: object) -> None:
    scope = {"scope_kind": "organisation", "scope_id": tenant.caller.org_id}
    answer = await client.post("/api/v1/budgets", json={**scope, "amount": amount, "period": "day"})
    assert problem(answer, 422, "invalid_request")["errors"][0]["where"] == "body.amount"


async def test_groups_have_members_and_take_their_bounds_with_them(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, postgres: Server, tenant: Tenant, other_tenant: Tenant
) -> None:
    member = await add_member(postgres, tenant)
    users = sorted([tenant.caller.user_id, member.caller.user_id])
    group = (await client.post("/api/v1/groups", json={"name": "readers"})).json()
    assert group == {"id": group["id"], "name": "readers", "members": []}
    path = f"/api/v1/groups/{group['id']}"
    put = await client.put(f"{path}/members", json={"user_ids": [*users, users[0]]})
    assert put.json() == {**group, "members": users}
    assert await pages(client, "/api/v1/groups", 1) == [put.json()]
    problem(await client.post("/api/v1/groups", json={"name": "readers"}), 409, "conflict")
    foreign = {"user_ids": [other_tenant.caller.user_id]}
    problem(await client.put(f"{path}/members", json=foreign), 404, "not_found")
    problem(await stranger.put(f"{path}/members", json=foreign), 404, "not_found")
    problem(await stranger.delete(path), 404, "not_found")
    await client.put(f"/api/v1/limits/group/{group['id']}", json={"concurrency": 1})
    budget = {"scope_kind": "group", "scope_id": group["id"], "amount": "1", "period": "day"}
    assert (await client.post("/api/v1/budgets", json=budget)).json()["spent"] == "0.00"
    assert (await client.delete(path)).status_code == 204
    problem(await client.delete(path), 404, "not_found")
    assert (await client.get("/api/v1/limits")).json()["items"] == []
    assert (await client.get("/api/v1/budgets")).json()["items"] == []


async def test_provider_keys_are_sealed_and_never_shown_again(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, services: Services, tenant: Tenant
) -> None:
    body = {"provider": "vendor", "name": "main", "key": " sk-very-secret\n"}
    made = await client.post("/api/v1/provider-keys", json=body)
    assert made.status_code == 201, made.text
    listed = await client.get("/api/v1/provider-keys")
    assert listed.json() == {"items": [made.json()], "next_cursor": None}
    assert "very-secret" not in made.text + listed.text
    stored = (await services.gateway.policy(tenant.caller.org_id))["keys"][0]["sealed"]
    assert "very-secret" not in stored
    opened = services.sealer.open(base64.b64decode(stored), seal_context(tenant.caller.org_id, "vendor"))
    assert opened == b"sk-very-secret"
    path = f"/api/v1/provider-keys/{made.json()['id']}"
    problem(await stranger.delete(path), 404, "not_found")
    assert (await stranger.get("/api/v1/provider-keys")).json()["items"] == []
    assert [(await client.delete(path)).status_code for _ in range(2)] == [204, 204]
    assert (await services.gateway.policy(tenant.caller.org_id))["keys"] == []
    assert (await client.get("/api/v1/provider-keys")).json()["items"][0]["disabled_at"] is not None
    problem(await client.delete(f"/api/v1/provider-keys/{new_provider_key_id()}"), 404, "not_found")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"provider": "nobody"}, "provider"), ({"provider": "local"}, "provider"), ({"key": "ключ"}, "key"),
     ({"key": "   "}, "key"), ({"key": "a b"}, "key"), ({"key": "sk-secret\r\nx-evil: 1"}, "key"), ({"name": ""}, "name"),
     ({"name": "a\u0000"}, "name"), ({"key": "sk-secret" * 1000}, "key")],
)  # fmt: skip
async def test_bad_provider_keys_are_refused_without_repeating_them(
    client: httpx.AsyncClient, change: dict[str, str], field: str
) -> None:
    body = {"provider": "vendor", "name": "main", "key": "sk-secret"} | change
    answer = await client.post("/api/v1/provider-keys", json=body)
    assert problem(answer, 422, "invalid_request")["errors"][0]["where"] == f"body.{field}"
    assert "sk-secret" not in answer.text


async def test_the_policy_is_read_and_replaced(client: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    usual = {"cache_ttl_s": None, "log_mode": "off"}
    assert (await client.get("/api/v1/gateway-policy")).json() == usual
    wanted = {"cache_ttl_s": 60, "log_mode": "full"}
    assert (await client.put("/api/v1/gateway-policy", json=wanted)).json() == wanted
    assert (await client.get("/api/v1/gateway-policy")).json() == wanted
    assert (await stranger.get("/api/v1/gateway-policy")).json() == usual
    for bad in ({"cache_ttl_s": 0}, {"cache_ttl_s": 10**10}, {"log_mode": "some"}):
        problem(await client.put("/api/v1/gateway-policy", json={**wanted, **bad}), 422, "invalid_request")


async def test_usage_adds_up_and_members_see_their_own(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, services: Services, postgres: Server, tenant: Tenant
) -> None:
    member = await add_member(postgres, tenant)
    now = datetime.now(UTC)
    own = entry(member.caller, now - timedelta(days=1), NANOS, credential="pky_x", model="large")
    calls = [entry(tenant.caller, now - timedelta(days=40), NANOS), entry(tenant.caller, now, 2 * NANOS), own]
    await services.ledger.append([encode_entry(one) for one in calls])
    by_day = (await client.get("/api/v1/usage")).json()
    assert [(one["calls"], one["cost"]) for one in by_day["items"]] == [(1, "1.00"), (1, "2.00")]
    assert by_day["items"][0]["tokens"] == {
        "input": 10, "output": 5, "cached": 4, "cache_written": 0, "reasoning": 2
    }  # fmt: skip
    span = {"from": (now - timedelta(days=50)).isoformat(), "group_by": "model"}
    by_model = (await client.get("/api/v1/usage", params=span)).json()["items"]
    assert {one["group"]: one["cost"] for one in by_model} == {"small": "3.00", "large": "1.00"}
    listed = await pages(client, "/api/v1/usage/entries", 2)
    assert [one["id"] for one in listed] == [calls[1].id, own.id, calls[0].id]
    assert [one["provider_key_id"] for one in listed] == [None, "pky_x", None]
    assert "SECRET_NAME" not in str(listed)
    async with client_of(services, member.key) as limited:
        assert [one["id"] for one in await pages(limited, "/api/v1/usage/entries", 2)] == [own.id]
        users = (await limited.get("/api/v1/usage", params={"group_by": "user"})).json()["items"]
        assert [one["group"] for one in users] == [member.caller.user_id]
    assert (await stranger.get("/api/v1/usage")).json()["items"] == []
    # A cursor of somebody else's is one that is not there.
    assert (await stranger.get("/api/v1/usage/entries", params={"cursor": own.id})).json()["items"] == []


@pytest.mark.parametrize(
    "span",
    [{"from": "x"}, {"from": "0001-01-01T00:00:00+14:00"}, {"to": "9999-12-31T23:59:59-14:00"}, {"group_by": "colour"},
     {"from": "2026-01-02", "to": "2026-01-02"}, {"from": "2020-01-01", "to": "2026-01-01"}],
)  # fmt: skip
async def test_times_that_make_no_sense_are_refused(client: httpx.AsyncClient, span: dict[str, str]) -> None:
    problem(await client.get("/api/v1/usage", params=span), 422, "invalid_request")


async def test_the_request_log_is_paged_even_within_one_instant(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, services: Services, tenant: Tenant
) -> None:
    now = datetime.now(UTC).isoformat()
    ids = [new_ledger_id() for _ in range(5)]
    row = {
        "org_id": tenant.caller.org_id, "user_id": tenant.caller.user_id, "at": now, "model": "small",
        "provider": "vendor", "dialect": "openai-chat", "status": 200, "duration_ms": 5, "overhead_ms": 0.5,
        "request": {"model": "small"}, "answer": None,
    }  # fmt: skip
    await services.request_log.append_log([{"id": id_, **row} for id_ in ids])
    found = await pages(client, "/api/v1/request-log", 2)
    assert [one["id"] for one in found] == sorted(ids, reverse=True)
    assert found[0]["request"] == {"model": "small"}
    assert (await stranger.get("/api/v1/request-log")).json()["items"] == []


async def test_members_change_nothing_and_see_no_settings(services: Services, postgres: Server, tenant: Tenant) -> None:
    member = await add_member(postgres, tenant)
    user = member.caller.user_id
    async with client_of(services, member.key) as client:
        for method, path in [
            ("GET", "limits"), ("PUT", f"limits/user/{user}"), ("DELETE", f"limits/user/{user}"), ("GET", "budgets"),
            ("POST", "budgets"), ("PATCH", "budgets/x"), ("DELETE", "budgets/x"), ("GET", "groups"), ("POST", "groups"),
            ("PUT", "groups/x/members"), ("DELETE", "groups/x"), ("GET", "provider-keys"), ("POST", "provider-keys"),
            ("DELETE", "provider-keys/x"), ("GET", "gateway-policy"), ("PUT", "gateway-policy"), ("GET", "request-log"),
            *((method, f"{noun}/x") for noun in ("models", "model-aliases", "providers") for method in ("GET", "PUT", "DELETE")),
            ("GET", "models"), ("GET", "model-aliases"), ("GET", "providers"),
        ]:  # fmt: skip
            body: dict[str, str] | None = {} if method in {"PUT", "POST", "PATCH"} else None
            problem(await client.request(method, f"/api/v1/{path}", json=body), 403, "forbidden")
