"""The API's HTTP over real PostgreSQL, Valkey and disk: what callers get, and what bad callers get."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from serve_app.api.app import build_app
from serve_app.api.deps import Services
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.callers import CallerNames, SqlCallerRepository
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.creations import preview_label
from serve_app.core.domain.events import EventType
from serve_app.core.domain.ids import new_creation_id, new_key_id, new_session_id
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.core.telemetry import NullMetrics
from tests.apis import MAX_BODY, RecordingHosts, client_of, problem, services_of
from tests.conftest import Tenant


@pytest.fixture
async def services(database: Database, live: RedisLiveEvents, tmp_path: Path) -> Services:
    return services_of(database, live, tmp_path)


@pytest.fixture
async def anonymous(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(services) as client:
        yield client


@pytest.fixture
async def client(anonymous: httpx.AsyncClient, tenant: Tenant) -> httpx.AsyncClient:
    anonymous.headers["authorization"] = f"Bearer {tenant.key}"
    return anonymous


async def make_creation(services: Services, tenant: Tenant, text: str = "# Hello\n\nworld") -> str:
    """A creation, made as a host makes it."""
    session = await services.sessions.create(tenant.caller, "t", "small", None)
    org = tenant.caller.org_id
    await services.sessions.append(org, session.id, None, EventType.MESSAGE_USER, {"text": "hi"}, None, "pending")
    leases = await services.sessions.claim("api-test", 60, 1000)
    lease = next(lease for lease in leases if lease.session.id == session.id)
    entry = await services.blobs.put(org, "document.md", text.encode(), "text/markdown")
    event = await services.creations.commit_turn(lease, 2, "document", "Hello", entry, {"model": "small"})
    await services.sessions.abandon("api-test")
    return str(event.data["creation_id"])


async def test_a_session_takes_messages_and_wakes_a_host(client: httpx.AsyncClient, services: Services) -> None:
    made = await client.post("/api/v1/sessions", json={"title": "T"})
    assert made.status_code == 201
    session = made.json()
    assert (session["title"], session["model"], session["status"]) == ("T", "small", "idle")
    posted = await client.post(f"/api/v1/sessions/{session['id']}/messages", json={"text": "hi"})
    assert posted.status_code == 202
    assert posted.json() == {"session_id": session["id"], "seq": 2}
    assert isinstance(services.hosts, RecordingHosts)
    assert services.hosts.woken == [session["id"]]
    assert (await client.get(f"/api/v1/sessions/{session['id']}")).json()["status"] == "pending"


async def test_idempotency_keys_have_one_effect(client: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "k"}
    first = (await client.post("/api/v1/sessions", json={}, headers=key)).json()
    assert (await client.post("/api/v1/sessions", json={}, headers=key)).json()["id"] == first["id"]
    url = f"/api/v1/sessions/{first['id']}/messages"
    assert (await client.post(url, json={"text": "a"}, headers=key)).json()["seq"] == 2
    assert (await client.post(url, json={"text": "a"}, headers=key)).json()["seq"] == 2
    problem(await client.post(url, json={"text": "b"}, headers=key), 409, "conflict")
    problem(await client.post(url, json={"text": "b"}, headers={"idempotency-key": "x" * 201}), 422, "invalid_request")


async def test_a_session_takes_only_so_many_messages_ahead_of_its_agent(client: httpx.AsyncClient) -> None:
    session = (await client.post("/api/v1/sessions", json={})).json()["id"]
    url = f"/api/v1/sessions/{session}/messages"
    answers = await asyncio.gather(*(client.post(url, json={"text": "x"}) for _ in range(205)))
    assert sorted(answer.status_code for answer in answers) == [202] * 200 + [429] * 5
    problem(await client.post(url, json={"text": "x"}), 429, "too_many_messages")


async def test_lists_are_paged_newest_first(client: httpx.AsyncClient) -> None:
    ids = [(await client.post("/api/v1/sessions", json={})).json()["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = (
            await client.get("/api/v1/sessions", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert seen == ids[::-1]


async def events_of(response: httpx.Response, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            found.append(orjson.loads(line[6:]))
            if len(found) == count:
                break
    return found


async def test_the_log_can_be_read_and_resumed_by_seq(client: httpx.AsyncClient) -> None:
    session = (await client.post("/api/v1/sessions", json={})).json()["id"]
    for number in range(3):
        await client.post(f"/api/v1/sessions/{session}/messages", json={"text": str(number)})
    url = f"/api/v1/sessions/{session}/events"
    async with client.stream("GET", url, params={"follow": "false"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        everything = await events_of(response, 4)
    assert [event["seq"] for event in everything] == [1, 2, 3, 4]
    async with client.stream("GET", url, params={"follow": "false"}, headers={"last-event-id": "3"}) as response:
        assert [event["seq"] for event in await events_of(response, 1)] == [4]
    problem(await client.get(url, headers={"last-event-id": "99"}), 422, "invalid_request")
    problem(await client.get(url, headers={"last-event-id": "x"}), 422, "invalid_request")
    problem(await client.get(url, headers={"last-event-id": str(2**70)}), 422, "invalid_request")


async def test_keys_are_shown_once_and_die_when_revoked(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    made = (await client.post("/api/v1/api-keys", json={"name": "second"})).json()
    key, record = made["key"], made["record"]
    headers = {"authorization": f"Bearer {key}"}
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 200
    listed = await client.get("/api/v1/api-keys")
    assert record["id"] in listed.text
    assert key not in listed.text
    assert key.split("_", 2)[2] not in listed.text
    assert (await client.delete(f"/api/v1/api-keys/{record['id']}")).status_code == 204
    assert (await client.delete(f"/api/v1/api-keys/{record['id']}")).status_code == 204
    await asyncio.sleep(1.1)
    problem(await client.get("/api/v1/me", headers=headers), 401, "unauthenticated")
    problem(await client.delete(f"/api/v1/api-keys/{new_key_id()}"), 404, "not_found")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer nonsense", "Bearer aek_", "Bearer aek_00000000_wrong",
     "Bearer aek_' OR 1=1 --_x", "Bearer " + "x" * 5000, "Bearer aet_e30.AAAA", "Bearer aet_.", "Bearer aek_é_ü"],
)  # fmt: skip
async def test_no_route_works_without_a_good_key(anonymous: httpx.AsyncClient, authorization: str | None) -> None:
    anonymous.headers.pop("authorization", None)
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    for method, path in [
        ("GET", "/api/v1/me"), ("GET", "/api/v1/sessions"), ("POST", "/api/v1/sessions"),
        ("GET", f"/api/v1/sessions/{new_session_id()}/events"), ("GET", "/api/v1/creations"),
        ("GET", "/api/v1/api-keys"), ("POST", f"/api/v1/creations/{new_creation_id()}/preview-links"),
    ]:  # fmt: skip
        response = await anonymous.request(method, path, headers=headers, json={} if method == "POST" else None)  # type: ignore[arg-type]  # bytes are taken
        problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_a_good_prefix_with_a_wrong_secret_is_refused(client: httpx.AsyncClient, tenant: Tenant) -> None:
    scheme, prefix, _ = tenant.key.split("_", 2)
    headers = {"authorization": f"Bearer {scheme}_{prefix}_{'A' * 43}"}
    problem(await client.get("/api/v1/me", headers=headers), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_body"),
        (b"\xff\xfe", 400, "malformed_body"),
        (b"", 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b'{"text": 5}', 422, "invalid_request"),
        (b'{"text": ""}', 422, "invalid_request"),
        (b'{"text": null}', 422, "invalid_request"),
        (b'{"text": "a", "more": 1}', 422, "invalid_request"),
        (b'{"text": "a\\u0000b"}', 422, "invalid_request"),
        (b'{"text": "\\ud800"}', 422, "invalid_request"),
        (b'{"text": "' + b"x" * MAX_BODY + b'"}', 413, "body_too_large"),
        (b"[" * 30_000, 400, "malformed_body"),
    ],
)
async def test_bad_bodies_get_a_clear_problem(client: httpx.AsyncClient, body: bytes, status: int, code: str) -> None:
    session = (await client.post("/api/v1/sessions", json={})).json()
    response = await client.post(
        f"/api/v1/sessions/{session['id']}/messages", content=body, headers={"content-type": "application/json"}
    )
    problem(response, status, code)
    assert (await client.get(f"/api/v1/sessions/{session['id']}")).json()["last_seq"] == 1


async def test_a_large_body_without_a_length_is_refused_too(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 10_000

    problem(await client.post("/api/v1/sessions", content=endless()), 413, "body_too_large")


async def test_unknown_models_routes_and_methods_are_named(client: httpx.AsyncClient) -> None:
    body = problem(await client.post("/api/v1/sessions", json={"model": "gpt-9"}), 404, "model_not_found")
    assert "gpt-9" in body["detail"]
    assert "small" in body["detail"]
    problem(await client.get("/api/v1/nothing"), 404, "not_found")
    problem(await client.put("/api/v1/sessions"), 405, "method_not_allowed")
    problem(await client.get("/api/v1/sessions", params={"limit": 0}), 422, "invalid_request")
    problem(await client.get("/api/v1/sessions", params={"cursor": "x' OR 1=1"}), 404, "not_found")


@pytest.mark.parametrize("text", ["x", "ses_", "ses_" + "0" * 26, "ses_" + "U" * 26, "ses_%00", "cre_" + "0" * 26, "ü"])
async def test_ids_that_are_none_are_not_found(client: httpx.AsyncClient, text: str) -> None:
    for path in (f"/api/v1/sessions/{text}", f"/api/v1/sessions/{text}/events"):
        problem(await client.get(path), 404, "not_found")
    problem(await client.post(f"/api/v1/sessions/{text}/messages", json={"text": "x"}), 404, "not_found")


async def test_somebody_elses_ids_are_not_found(
    client: httpx.AsyncClient, services: Services, other_tenant: Tenant
) -> None:
    creation = await make_creation(services, other_tenant)
    theirs = await services.sessions.create(other_tenant.caller, "secret", "small", None)
    key, _ = (await _key_of(client, other_tenant)), None
    for method, path in [
        ("GET", f"/api/v1/sessions/{theirs.id}"), ("GET", f"/api/v1/sessions/{theirs.id}/events"),
        ("POST", f"/api/v1/sessions/{theirs.id}/messages"), ("GET", f"/api/v1/creations/{creation}"),
        ("GET", f"/api/v1/creations/{creation}/versions"), ("GET", f"/api/v1/creations/{creation}/versions/1"),
        ("GET", f"/api/v1/creations/{creation}/versions/1/files/document.md"),
        ("POST", f"/api/v1/creations/{creation}/preview-links"), ("DELETE", f"/api/v1/api-keys/{key}"),
    ]:  # fmt: skip
        response = await client.request(method, path, json={"text": "x"} if method == "POST" else None)
        problem(response, 404, "not_found")
    for path in ("/api/v1/sessions", "/api/v1/creations", f"/api/v1/creations?session_id={theirs.id}"):
        assert (await client.get(path)).json()["items"] == []


async def _key_of(client: httpx.AsyncClient, tenant: Tenant) -> str:
    listed = await client.get("/api/v1/api-keys", headers={"authorization": f"Bearer {tenant.key}"})
    return str(listed.json()["items"][0]["id"])


async def test_creations_are_read_and_downloaded(client: httpx.AsyncClient, services: Services, tenant: Tenant) -> None:
    creation = await make_creation(services, tenant, "# Hello\n\n<script>alert(1)</script>")
    read = (await client.get(f"/api/v1/creations/{creation}")).json()
    assert (read["title"], read["head"], read["kind"]) == ("Hello", 1, "document")
    version = (await client.get(f"/api/v1/creations/{creation}/versions/1")).json()
    assert version["files"][0]["path"] == "document.md"
    url = f"/api/v1/creations/{creation}/versions/1/files/document.md"
    file = await client.get(url)
    assert file.text == "# Hello\n\n<script>alert(1)</script>"
    assert file.headers["content-disposition"] == "attachment"
    assert "sandbox" in file.headers["content-security-policy"]
    again = await client.get(url, headers={"if-none-match": file.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    problem(await client.get(f"/api/v1/creations/{creation}/versions/2"), 404, "not_found")
    problem(await client.get(f"/api/v1/creations/{creation}/versions/99999999999"), 422, "invalid_request")
    problem(await client.get(f"/api/v1/creations/{creation}/versions/1/files/../../etc/passwd"), 404, "not_found")


async def test_a_preview_opens_on_its_own_host_with_its_link_alone(
    client: httpx.AsyncClient, services: Services, tenant: Tenant
) -> None:
    creation = await make_creation(services, tenant, "# Hello\n\n<script>alert(1)</script> [x](javascript:alert(1))")
    other = await make_creation(services, tenant, "# Other")
    link = (await client.post(f"/api/v1/creations/{creation}/preview-links")).json()["url"]
    host = f"{preview_label(creation)}.localhost:8000"  # type: ignore[arg-type]  # an id as text
    assert link.startswith(f"http://{host}/?access=")
    client.headers.pop("authorization")
    path = link.removeprefix(f"http://{host}")
    refused = await client.get("/", headers={"host": host})
    assert refused.status_code == 401
    assert "expired" in refused.text
    opened = await client.get(path, headers={"host": host})
    assert opened.status_code == 303
    assert "access=" not in opened.headers["location"]
    cookie = opened.headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert "domain" not in cookie.lower()
    client.cookies.clear()
    headers = {"host": host, "cookie": cookie.split(";")[0]}
    page = await client.get("/", headers=headers)
    assert page.status_code == 200
    assert "<h1>Hello</h1>" in page.text
    assert "<script" not in page.text
    assert "javascript:" not in page.text.replace("[x](javascript:alert(1))", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (await client.get("/v/1/source", headers=headers)).headers["content-type"].startswith("text/plain")
    assert (await client.get("/v/2", headers=headers)).status_code == 404
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 404
    assert (await client.post("/", headers=headers)).status_code == 405
    # The same cookie and the same ticket open nothing else.
    elsewhere = f"{preview_label(other)}.localhost:8000"  # type: ignore[arg-type]  # an id as text
    assert (await client.get("/", headers={**headers, "host": elsewhere})).status_code == 401
    assert (await client.get(path, headers={"host": elsewhere})).status_code == 401
    problem(await client.get("/api/v1/me", headers={"host": "nobody.localhost:8000"}), 404, "not_found")


async def test_a_fault_of_ours_is_a_problem_that_tells_nothing(services: Services, tenant: Tenant) -> None:
    class Broken(SqlCallerRepository):
        async def names(self, caller: Caller) -> CallerNames:
            raise RuntimeError("the password is hunter2")

    app = build_app(replace(services, callers=Broken(services.database)), NullMetrics())
    headers = {"authorization": f"Bearer {tenant.key}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000", headers=headers) as client:
        response = await client.get("/api/v1/me")
    body = problem(response, 500, "internal")
    assert "hunter2" not in response.text
    assert "request id" in body["detail"]


async def test_corrupted_bytes_are_never_handed_out_whole(
    client: httpx.AsyncClient, services: Services, tenant: Tenant, tmp_path: Path
) -> None:
    creation = await make_creation(services, tenant, "# precious")
    (stored,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    url = f"/api/v1/creations/{creation}/versions/1/files/document.md"
    stored.write_bytes(b"# poisoned")
    problem(await client.get(url), 500, "corrupted")
    stored.unlink()
    problem(await client.get(url), 404, "not_found")


async def test_health_is_told_without_a_key(anonymous: httpx.AsyncClient) -> None:
    anonymous.headers.pop("authorization", None)
    assert (await anonymous.get("/healthz")).json() == {"status": "ok"}
    assert (await anonymous.get("/readyz")).json() == {
        "status": "ok",
        "database": "ok",
        "live_events": "ok",
        "objects": "ok",
    }
    assert "AetherOS" in (await anonymous.get("/")).text
