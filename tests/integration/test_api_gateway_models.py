"""An organisation's own models, aliases and providers through the API, and the router that obeys what was set."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from configs.catalog import Alias, Catalog
from serve_app.api.deps import Services
from serve_app.core.db.engine import Database
from serve_app.core.db.tables.gateway import org_aliases
from serve_app.core.stores.live.redis import RedisLiveEvents
from tests.apis import client_of, problem, services_of
from tests.conftest import Server, Tenant
from tests.doubles.answers import Json
from tests.doubles.provider import Double
from tests.routers import catalog_of, model, provider, running_router, settings

PROVIDER = {"id": "mine", "dialects": ["openai-chat"], "base_url": "https://models.example.org/v1"}
MODEL = {
    "id": "mine/large", "provider": "mine", "name": "large-1", "owner": "me", "released": "2026-01-01",
    "context_tokens": 100_000, "max_output_tokens": 8_000, "price": {"input": 1, "output": 2},
}  # fmt: skip
ALIAS = {"id": "best", "models": ["mine/large", "small"], "strategy": "ordered"}
PATHS: dict[str, dict[str, Any]] = {
    "/api/v1/providers/mine": PROVIDER, "/api/v1/models/mine/large": MODEL, "/api/v1/model-aliases/best": ALIAS
}  # fmt: skip


@pytest.fixture
def catalog() -> Catalog:
    vendor = provider("vendor", "https://vendor.example/v1", "openai-chat", keys=["ONE"])
    return catalog_of([vendor], [model("small", "vendor")], [Alias(id="auto")])


@pytest.fixture
async def services(database: Database, live: RedisLiveEvents, tmp_path: Path, catalog: Catalog) -> Services:
    return services_of(database, live, tmp_path, catalog)


@pytest.fixture
async def client(services: Services, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(services, tenant.key) as client:
        yield client


@pytest.fixture
async def stranger(services: Services, other_tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(services, other_tenant.key) as client:
        yield client


async def put_all(client: httpx.AsyncClient) -> None:
    for path, entry in PATHS.items():
        answer = await client.put(path, json=entry)
        assert answer.status_code == 200, answer.text


async def test_entries_are_added_read_and_deleted_in_order(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    await put_all(client)
    await put_all(client)
    for path, entry in PATHS.items():
        read = (await client.get(path)).json()
        assert [read[name] for name in entry if name != "price"] == [entry[name] for name in entry if name != "price"]
        listed = path.split("/mine")[0].removesuffix("/best")
        page = (await client.get(listed, params={"limit": 1})).json()
        assert [one["id"] for one in page["items"]] == [entry["id"]]
        assert page["next_cursor"] == entry["id"]
        after = (await client.get(listed, params={"cursor": entry["id"]})).json()
        assert after == {"items": [], "unreadable": [], "next_cursor": None}
        problem(await stranger.get(path), 404, "not_found")
        problem(await stranger.delete(path), 404, "not_found")
        assert (await stranger.get(listed)).json()["items"] == []
    for path in ("/api/v1/providers/mine", "/api/v1/models/mine/large"):
        assert "Still used by" in problem(await client.delete(path), 409, "conflict")["detail"]
    for path in reversed(PATHS):
        assert (await client.delete(path)).status_code == 204
        problem(await client.delete(path), 404, "not_found")
        problem(await client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": "other"}, "body.id"),
        ({"provider": "nobody"}, "body.provider"),
        ({"provider": "local", "engine": "llamacpp"}, "body.provider"),
        ({"source": {"package": "a", "file": "b"}}, "body.source"),
        ({"max_output_tokens": 200_000}, "body"),
        ({"context_tokens": 10**30}, "body.context_tokens"),
        ({"price": {"input": -1}}, "body.price.input"),
        ({"price": {"input": 1e300}}, "body.price.input"),
        ({"price": {"long": {"above": 5, "output": 10_001}}}, "body.price.long.output"),
        ({"owner": "a\u0000b"}, "body.owner"),
        ({"name": "../../v2/evil?x="}, "body.name"),
        ({"regions": ["x" * 9000]}, "body"),
        ({"dialects": ["anthropic"]}, "body.dialects"),
        ({"fallbacks": {"error": ["nobody"]}}, "body.fallbacks.error"),
        ({"colour": "red"}, "body.colour"),
    ],
)
async def test_bad_models_name_the_field(client: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    await client.put("/api/v1/providers/mine", json=PROVIDER)
    answer = await client.put("/api/v1/models/mine/large", json=MODEL | change)
    assert problem(answer, 422, "invalid_request")["errors"][0]["where"] == field
    assert (await client.get("/api/v1/models")).json()["items"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"base_url": None}, "body.base_url"),
        ({"base_url": "ftp://models.example.org"}, "body.base_url"),
        ({"base_url": "https://user:secret@models.example.org"}, "body.base_url"),
        ({"base_url": "https://models.example.org:99999"}, "body.base_url"),
        ({"base_url": "https://[::"}, "body.base_url"),
        ({"credentials": [{"env": "OPENAI_API_KEY"}]}, "body.credentials"),
        ({"credentials": [{"vault": "kv/openai#key"}]}, "body.credentials"),
        ({"headers": {"Host": "metadata"}}, "body.headers.Host"),
        ({"headers": {"Authorization": "Bearer x"}}, "body.headers.Authorization"),
        ({"headers": {"x-team": "a\r\nx-evil: 1"}}, "body.headers.x-team"),
        ({"headers": {"x team": "a"}}, "body.headers.x team"),
        ({"dialects": []}, "body.dialects"),
    ],
)
async def test_bad_providers_name_the_field(client: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    answer = await client.put("/api/v1/providers/mine", json=PROVIDER | change)
    assert problem(answer, 422, "invalid_request")["errors"][0]["where"] == field
    assert "user:secret" not in answer.text


async def test_names_of_the_platform_and_names_in_use_are_taken(client: httpx.AsyncClient) -> None:
    await put_all(client)
    for path, entry in [
        ("/api/v1/models/small", MODEL | {"id": "small"}), ("/api/v1/models/auto", MODEL | {"id": "auto"}),
        ("/api/v1/models/best", MODEL | {"id": "best"}), ("/api/v1/model-aliases/auto", ALIAS | {"id": "auto"}),
        ("/api/v1/model-aliases/small", ALIAS | {"id": "small"}),
        ("/api/v1/model-aliases/mine/large", ALIAS | {"id": "mine/large"}),
        ("/api/v1/providers/vendor", PROVIDER | {"id": "vendor"}),
    ]:  # fmt: skip
        problem(await client.put(path, json=entry), 409, "conflict")
    local = await client.put("/api/v1/providers/local", json=PROVIDER | {"id": "local"})
    assert problem(local, 422, "invalid_request")["errors"][0]["where"] == "body.id"
    unknown = await client.put("/api/v1/model-aliases/best", json=ALIAS | {"models": ["nobody"]})
    assert problem(unknown, 422, "invalid_request")["errors"][0]["where"] == "body.models"
    for text in ("%00", "a b", "x' OR 1=1"):
        problem(await client.get(f"/api/v1/models/{text}"), 404, "not_found")


async def test_a_stored_key_is_never_sent_to_another_address(client: httpx.AsyncClient) -> None:
    path = "/api/v1/providers/mine"
    await client.put(path, json=PROVIDER)
    body = {"provider": "mine", "name": "main", "key": "sk-mine"}
    key = (await client.post("/api/v1/provider-keys", json=body)).json()["id"]
    moved = PROVIDER | {"base_url": "https://elsewhere.example.org"}
    problem(await client.put(path, json=moved), 409, "conflict")
    problem(await client.delete(path), 409, "conflict")
    assert (await client.put(path, json=PROVIDER | {"headers": {"x-team": "a"}})).status_code == 200
    await client.delete(f"/api/v1/provider-keys/{key}")
    assert (await client.put(path, json=moved)).status_code == 200
    assert (await client.delete(path)).status_code == 204


async def test_entries_of_another_version_are_told_and_can_go(
    client: httpx.AsyncClient, services: Services, tenant: Tenant
) -> None:
    await put_all(client)
    await services.gateway.put_entry(tenant.caller.org_id, "model", {"id": "old", "colour": "red"})
    page = (await client.get("/api/v1/models")).json()
    assert ([one["id"] for one in page["items"]], page["unreadable"]) == (["mine/large"], ["old"])
    problem(await client.get("/api/v1/models/old"), 500, "corrupted")
    assert (await client.delete("/api/v1/models/old")).status_code == 204


async def test_an_organisation_adds_only_so_many(client: httpx.AsyncClient, services: Services, tenant: Tenant) -> None:
    org = tenant.caller.org_id
    rows = [{"org_id": org, "id": f"a{n}", "entry": {"id": f"a{n}"}} for n in range(1000)]
    async with services.database.transaction(org) as connection:
        await connection.execute(insert(org_aliases).values(rows))
    assert (await client.put("/api/v1/model-aliases/a7", json={"id": "a7", "models": ["small"]})).status_code == 200
    problem(await client.put("/api/v1/model-aliases/b", json={"id": "b"}), 409, "conflict")
    assert (await client.get("/api/v1/model-aliases/a7")).json()["models"] == ["small"]
    problem(await client.get("/api/v1/model-aliases/b"), 404, "not_found")


CHAT = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "large-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000},
}  # fmt: skip
ASK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


async def until(ask: Callable[[], Awaitable[httpx.Response]], status: int) -> httpx.Response:
    """What was set holds within two seconds; the policy read last is given out once more while a newer one comes."""
    async with asyncio.timeout(5):
        while (answer := await ask()).status_code != status:
            await asyncio.sleep(0.1)
    return answer


async def test_the_router_does_what_an_owner_sets(
    client: httpx.AsyncClient, postgres: Server, valkey: Server, catalog: Catalog, tenant: Tenant
) -> None:
    made_of = settings(postgres.url, valkey.url, allow_private_providers=True)
    async with Double() as double, running_router(made_of, catalog) as router:
        double.plays(Json(CHAT))
        headers = {"authorization": f"Bearer {tenant.key}"}
        async with httpx.AsyncClient(base_url=router.url, headers=headers) as caller:

            async def ask(name: str = "best") -> httpx.Response:
                return await caller.post("/v1/chat/completions", json={"model": name, **ASK})

            assert (await ask()).status_code == 404
            await client.put("/api/v1/providers/mine", json=PROVIDER | {"base_url": f"{double.url}/v1"})
            await client.put("/api/v1/models/mine/large", json=MODEL)
            await client.put("/api/v1/model-aliases/best", json=ALIAS)
            key = {"provider": "mine", "name": "main", "key": "sk-mine"}
            key_id = (await client.post("/api/v1/provider-keys", json=key)).json()["id"]
            # A budget of a dollar and a bit: the answer costs one, and is known to only when it has come.
            scope = {"scope_kind": "organisation", "scope_id": tenant.caller.org_id}
            budget = (await client.post("/api/v1/budgets", json={**scope, "amount": "1.00001", "period": "day"})).json()
            answered = await until(ask, 200)
            assert answered.headers["x-aether-route"].startswith("mine/large; provider=mine")
            assert double.requests[0].headers["authorization"] == "Bearer sk-mine"
            assert double.requests[0].json()["model"] == "large-1"

            refused = await until(ask, 429)
            assert refused.json()["error"]["code"] == "insufficient_quota"
            spent = f"{len(double.requests)}.00"
            async with asyncio.timeout(5):
                while (await client.get("/api/v1/budgets")).json()["items"][0]["spent"] != spent:
                    await asyncio.sleep(0.1)
            (used,) = (await client.get("/api/v1/usage", params={"group_by": "model"})).json()["items"]
            assert (used["group"], used["cost"]) == ("mine/large", spent)
            entries = (await client.get("/api/v1/usage/entries")).json()["items"]
            assert {entry["provider_key_id"] for entry in entries} == {key_id}
            await client.patch(f"/api/v1/budgets/{budget['id']}", json={"amount": "100"})
            await until(ask, 200)

            await client.put(f"/api/v1/limits/user/{tenant.caller.user_id}", json={"requests_per_minute": 1})
            limited = await until(ask, 429)
            assert limited.json()["error"]["code"] == "rate_limit_exceeded"
            await client.delete(f"/api/v1/limits/user/{tenant.caller.user_id}")
            await until(ask, 200)

            await client.put("/api/v1/gateway-policy", json={"cache_ttl_s": None, "log_mode": "metadata"})

            async def logged() -> httpx.Response:
                await ask()
                found = await client.get("/api/v1/request-log")
                return found if found.json()["items"] else httpx.Response(404)

            (row, *_) = (await until(logged, 200)).json()["items"]
            assert (row["model"], row["status"], row["request"]) == ("mine/large", 200, None)

            await client.delete(f"/api/v1/provider-keys/{key_id}")
            gone = await until(ask, 404)
            assert "sk-mine" not in gone.text
