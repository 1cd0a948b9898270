"""Sandboxes through the API, over a real server: their life, their programs, their files."""

import asyncio
import base64
import io
import json
import tarfile
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.core.domain.ids import new_sandbox_id, new_session_id, new_snapshot_id
from tests.apis import problem
from tests.conftest import Tenant
from tests.sandbox_apis import SandboxWorld

EVENTS = {"accept": "text/event-stream"}


@pytest.fixture
async def client(place: str, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    async with api(place, tenant) as client:
        yield client


@pytest.fixture
async def path(client: httpx.AsyncClient) -> str:
    """Of a sandbox that runs."""
    made = await client.post("/api/v1/sandboxes", json={})
    assert made.status_code == 201, made.text
    return f"/api/v1/sandboxes/{made.json()['id']}"


def api(place: str, tenant: Tenant) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {tenant.key}"}
    return httpx.AsyncClient(base_url=f"http://{place}", headers=headers, timeout=60, trust_env=False)


async def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    kind = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((kind, json.loads(line.removeprefix("data: "))))
    return found


async def told(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    async with client.stream("POST", path, json=body, headers=EVENTS) as response:
        assert response.status_code == 200
        return await events(response)


async def test_a_life(client: httpx.AsyncClient, place: str, other_tenant: Tenant) -> None:
    made = (await client.post("/api/v1/sandboxes", json={"profile": "small"})).json()
    assert (made["state"], made["profile"], made["ended_at"]) == ("running", "small", None)
    assert "token" not in json.dumps(made)
    path = f"/api/v1/sandboxes/{made['id']}"
    assert (await client.get(path)).json()["state"] == "running"
    assert [one["id"] for one in (await client.get("/api/v1/sandboxes")).json()["items"]] == [made["id"]]
    async with api(place, other_tenant) as stranger:
        assert (await stranger.get("/api/v1/sandboxes")).json()["items"] == []
        for method, below in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/fork"), ("GET", "/ports")):
            problem(await stranger.request(method, path + below), 404, "not_found")
        problem(await stranger.post(path + "/exec", json={"shell": "id"}), 404, "not_found")
    assert (await client.delete(path)).status_code == 204
    assert (await client.delete(path)).status_code == 204
    ended = (await client.get(path)).json()
    assert (ended["state"], ended["end_reason"]) == ("ended", "deleted")
    gone = problem(await client.post(path + "/exec", json={"shell": "id"}), 410, "sandbox_ended")
    assert gone["reason"] == "deleted"
    assert (await client.get("/api/v1/sandboxes")).json()["items"] == []
    assert [one["id"] for one in (await client.get("/api/v1/sandboxes?ended=true")).json()["items"]] == [made["id"]]


async def test_what_cannot_be_made(client: httpx.AsyncClient, world: SandboxWorld) -> None:
    unknown = problem(await client.post("/api/v1/sandboxes", json={"profile": "huge"}), 404, "profile_not_found")
    assert "small, other" in unknown["detail"]
    problem(await client.post("/api/v1/sandboxes", json={"session_id": new_session_id()}), 404, "not_found")
    bad: list[dict[str, Any]] = [
        {"services": [{"name": "X", "argv": ["a"]}]}, {"services": [{"name": "x", "argv": []}]},
        {"services": [{"name": "x", "argv": ["a\0"]}]}, {"image": "alpine"}, {"services": [{"name": "x", "argv": ["a"]}] * 17},
    ]  # fmt: skip
    for body in bad:
        problem(await client.post("/api/v1/sandboxes", json=body), 422, "invalid_request")
    for below in ("x", new_sandbox_id(), "..%2f..", "sbx_%00"):
        problem(await client.get(f"/api/v1/sandboxes/{below}"), 404, "not_found")
    assert (await client.post("/api/v1/sandboxes", json={"profile": "other"})).status_code == 201
    refused = problem(await client.post("/api/v1/sandboxes", json={"profile": "other"}), 503, "at_capacity")
    assert refused["detail"]
    known = (await client.get("/api/v1/sandbox-profiles")).json()["items"]
    assert [(one["id"], one["is_default"], one["price_per_hour"]) for one in known] == [
        ("small", True, "0"), ("other", False, "0")
    ]  # fmt: skip


async def test_the_same_request_makes_one(client: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "once"}
    answers = await asyncio.gather(*(client.post("/api/v1/sandboxes", json={}, headers=headers) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    problem(await client.post("/api/v1/sandboxes", json={"profile": "other"}, headers=headers), 409, "conflict")


async def test_a_failed_start_gives_its_key_back(client: httpx.AsyncClient) -> None:
    first = (await client.post("/api/v1/sandboxes", json={"profile": "other"})).json()
    key = {"idempotency-key": "again"}
    problem(await client.post("/api/v1/sandboxes", json={"profile": "other"}, headers=key), 503, "at_capacity")
    await client.delete(f"/api/v1/sandboxes/{first['id']}")
    made = await client.post("/api/v1/sandboxes", json={"profile": "other"}, headers=key)
    assert (made.status_code, made.json()["state"]) == (201, "running")


async def test_programs_run_to_their_end(client: httpx.AsyncClient, path: str) -> None:
    done = (await client.post(f"{path}/exec", json={"shell": "echo out; echo err >&2; exit 3"})).json()
    assert (done["stdout"], done["stderr"], done["exit_code"]) == ("out\n", "err\n", 3)
    done = (await client.post(f"{path}/exec", json={"argv": ["cat"], "stdin": "é"})).json()
    assert (done["stdout"], done["stdout_base64"]) == ("é", None)
    exact = base64.b64encode(b"\xff\x00\xfe").decode()
    done = (await client.post(f"{path}/exec", json={"argv": ["cat"], "stdin_base64": exact})).json()
    assert (done["stdout"], done["stdout_base64"]) == ("\ufffd\x00\ufffd", exact)
    done = (await client.post(f"{path}/exec", json={"shell": "yes", "output_bytes": 10, "timeout_s": 0.3})).json()
    assert (len(done["stdout"]), done["cut"], done["timed_out"]) == (10, True, True)
    for bad in ({}, {"argv": ["a"], "shell": "b"}, {"argv": ["a\0"]}, {"shell": "a", "timeout_s": 0}):
        problem(await client.post(f"{path}/exec", json=bad), 422, "invalid_request")
    problem(await client.post(f"{path}/exec", json={"argv": ["no-such-program"]}), 404, "file_not_found")


async def test_programs_are_told_as_they_run(client: httpx.AsyncClient, path: str) -> None:
    # The bytes of one character come apart, and those of none at the end.
    line = r"printf 'a\303'; sleep 0.2; printf '\251'; printf '\377\376' >&2; printf '\303'"
    found = await told(client, f"{path}/exec", {"shell": line})
    assert next(kind for kind, _ in found) == "started"
    assert "".join(body.get("text", "") for kind, body in found if kind == "stdout") == "aé"
    assert ("stderr", {"base64": base64.b64encode(b"\xff\xfe").decode()}) in found
    assert found[-2] == ("stdout", {"base64": base64.b64encode(b"\xc3").decode()})
    assert (found[-1][0], found[-1][1]["exit_code"]) == ("exit", 0)
    refused = await client.post(f"{path}/exec", json={"argv": ["no-such-program"]}, headers=EVENTS)
    problem(refused, 404, "file_not_found")


@pytest.mark.parametrize("headers", [EVENTS, {}])
async def test_a_client_that_leaves_kills_its_program(
    client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    async def processes() -> list[list[str]]:
        return [one["argv"] for one in (await client.get(f"{path}/processes")).json()["items"]]

    asked = {"shell": "sleep 63 & sleep 64; true"}
    with pytest.raises(httpx.ReadTimeout):
        async with client.stream("POST", f"{path}/exec", json=asked, headers=headers, timeout=0.5) as response:
            await response.aread()
    async with asyncio.timeout(10):
        while any("sleep" in argv for argv in await processes()):
            await asyncio.sleep(0.05)


async def test_programs_that_go_on(client: httpx.AsyncClient, path: str) -> None:
    shell = {"shell": "echo begun; sleep 0.3; echo done; exit 4"}
    process = (await client.post(f"{path}/processes", json=shell)).json()["process"]
    async with client.stream("GET", f"{path}/processes/{process}/output", headers=EVENTS) as response:
        found = await events(response)
    assert "".join(body["text"] for kind, body in found if kind == "stdout") == "begun\ndone\n"
    assert (found[-1][0], found[-1][1]["exit_code"]) == ("exit", 4)
    output = (await client.get(f"{path}/processes/{process}/output")).json()
    assert (output["stdout"], output["ended"]["exit_code"]) == ("begun\ndone\n", 4)
    endless = (await client.post(f"{path}/processes", json={"argv": ["sleep", "65"]})).json()
    assert (await client.delete(f"{path}/processes/{endless['process']}")).status_code == 204
    problem(await client.delete(f"{path}/processes/p999"), 404, "not_found")
    problem(await client.get(f"{path}/processes/web/output"), 404, "not_found")
    problem(await client.get(f"{path}/processes/X/output"), 422, "invalid_request")


async def test_cells_keep_their_state(client: httpx.AsyncClient, path: str) -> None:
    first = (await client.post(f"{path}/cells", json={"code": "x = 20; print('hi')"})).json()
    assert (first["status"], first["stdout"], first["displays"]) == ("ok", "hi\n", [])
    second = (await client.post(f"{path}/cells", json={"code": "x + 1"})).json()
    assert second["displays"][0]["text/plain"] == "21"
    failed = (await client.post(f"{path}/cells", json={"code": "1/0"})).json()
    assert (failed["status"], failed["error"]["name"]) == ("error", "ZeroDivisionError")
    found = await told(client, f"{path}/cells", {"code": "print('a'); x"})
    assert [kind for kind, _ in found] == ["stdout", "display", "result"]
    odd = (await client.post(f"{path}/cells", json={"code": "raise ValueError('\\ud800')"})).json()
    assert odd["error"]["name"] == "ValueError"
    assert (await client.delete(f"{path}/interpreters/python/main")).status_code == 204
    assert (await client.post(f"{path}/cells", json={"code": "x"})).json()["error"]["name"] == "NameError"
    problem(await client.delete(f"{path}/interpreters/ruby/main"), 422, "invalid_request")


async def test_files(client: httpx.AsyncClient, path: str) -> None:
    async def big() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 65_536

    files = f"{path}/files"
    # Larger than any body that is read whole.
    written = await client.put(files, params={"path": "deep/big"}, content=big())
    assert written.json() == {"size": 64 * 65_536}
    read = await client.get(files, params={"path": "deep/big"})
    assert (len(read.content), read.headers["content-type"]) == (64 * 65_536, "application/octet-stream")
    assert read.content[65_536 * 3 : 65_536 * 3 + 2] == b"\3\3"
    await client.put(files, params={"path": "page.html", "mode": "0755"}, content="<script>é</script>".encode())
    page = await client.get(files, params={"path": "page.html"})
    assert page.headers["content-type"] == "text/plain; charset=utf-8"
    assert page.headers["x-content-type-options"] == "nosniff"
    ranges = {"bytes=0-3": b"<scr", "bytes=-3": b"pt>", "bytes=16-": b"pt>", "bytes=16-999": b"pt>"}
    for asked, content in ranges.items():
        part = await client.get(files, params={"path": "page.html"}, headers={"range": asked})
        assert (part.status_code, part.content) == (206, content), (asked, part.text)
        assert part.headers["content-range"].endswith("/19")
    problem(
        await client.get(files, params={"path": "page.html"}, headers={"range": "bytes=19-"}),
        416,
        "range_not_satisfiable",
    )
    problem(await client.put(files, params={"path": "page.html", "exclusive": "true"}, content=b""), 409, "conflict")
    edit = {"path": "page.html", "old": "é", "new": "ü"}
    assert (await client.post(f"{files}/edit", json=edit)).json() == {"replaced": 1}
    problem(await client.post(f"{files}/edit", json=edit), 409, "edit_conflict")
    entry = (await client.get(f"{files}/stat", params={"path": "page.html"})).json()
    assert (entry["kind"], entry["size"], entry["mode"]) == ("file", 19, "0755")
    assert (await client.post(f"{files}/move", json={"from": "page.html", "to": "deep/p"})).status_code == 204
    assert (await client.post(f"{files}/mkdir", json={"path": "made/here"})).status_code == 204
    listed = (await client.get(f"{files}/list", params={"depth": 5})).json()
    assert {one["path"] for one in listed["items"]} >= {"deep", "deep/big", "deep/p", "made/here"}
    cut = (await client.get(f"{files}/list", params={"limit": 1})).json()
    assert (len(cut["items"]), cut["cut"]) == (1, True)
    assert (await client.delete(files, params={"path": "deep", "recursive": "true"})).status_code == 204
    problem(await client.get(files, params={"path": "deep/p"}), 404, "file_not_found")
    for outside in ("/etc/passwd", "../../x", "/proc/self/environ", "a\0b"):
        problem(await client.get(files, params={"path": outside}), 422, "bad_path")
    problem(await client.get(files), 422, "invalid_request")
    full = await client.put(files, params={"path": "x"}, content=bytes(40 * 1024**2))
    problem(full, 507, "sandbox_full")
    empty = await client.put(files, params={"path": "empty"}, content=b"")
    assert empty.json() == {"size": 0}
    assert (await client.get(files, params={"path": "empty"})).content == b""


async def test_names_that_are_no_utf8(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.put(f"{path}/files?path=caf%E9", content=b"old bytes")).status_code == 200
    [entry] = (await client.get(f"{path}/files/list")).json()["items"]
    assert (entry["path"], entry["raw_path"]) == ("caf\ufffd", "caf%E9")
    assert (await client.get(f"{path}/files?path={entry['raw_path']}")).content == b"old bytes"


async def test_uploads_are_bounded(world: SandboxWorld, client: httpx.AsyncClient, path: str, tenant: Tenant) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(65_536)

    object.__setattr__(world.services, "max_upload_bytes", 1_000_000)
    params = {"path": "x"}
    problem(await client.put(f"{path}/files", params=params, content=bytes(1_000_001)), 413, "body_too_large")
    problem(await client.put(f"{path}/files", params=params, content=endless()), 413, "body_too_large")
    problem(await client.get(f"{path}/files", params=params), 404, "file_not_found")
    bare = {"authorization": "Bearer aek_no_no"}
    problem(await client.put(f"{path}/files", params=params, content=b"x", headers=bare), 401, "unauthenticated")


async def test_a_broken_upload_changes_nothing(client: httpx.AsyncClient, path: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(0.2)
        raise ZeroDivisionError

    await client.put(f"{path}/files", params={"path": "kept"}, content=b"whole")
    with pytest.raises(ZeroDivisionError):
        await client.put(f"{path}/files", params={"path": "kept"}, content=broken())
    await asyncio.sleep(0.2)
    assert (await client.get(f"{path}/files", params={"path": "kept"})).content == b"whole"
    assert len((await client.get(f"{path}/files/list")).json()["items"]) == 1


async def test_archives_watching_and_searching(client: httpx.AsyncClient, path: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in (("a/one.py", b"import os\n"), ("a/two.txt", b"import nothing\n")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    unpacked = await client.put(f"{path}/archive", params={"path": "in"}, content=packed.getvalue())
    assert unpacked.json() == {"files": 2}
    back = await client.get(f"{path}/archive", params={"path": "in"})
    assert back.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(back.content)) as archive:
        assert {name.removeprefix("./") for name in archive.getnames()} >= {"a/one.py", "a/two.txt"}
    problem(await client.get(f"{path}/archive", params={"path": "none"}), 404, "file_not_found")
    search = {"pattern": "^import", "glob": "*.py"}
    found = (await client.post(f"{path}/search", json=search)).json()
    assert [(one["path"], one["line"], one["text"]) for one in found["items"]] == [("in/a/one.py", 1, "import os")]
    async with client.stream("GET", f"{path}/watch", params={"path": "in"}) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == ": open"
        await asyncio.sleep(0.3)
        await client.put(f"{path}/files", params={"path": "in/new"}, content=b"x")
        async with asyncio.timeout(10):
            changed = [line async for line in _until(lines, "data: ")]
    assert json.loads(changed[-1].removeprefix("data: "))["paths"] == ["new"]


async def _until(lines: AsyncIterator[str], start: str) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        if line.startswith(start):
            return


async def test_pausing_snapshots_and_forks(client: httpx.AsyncClient, path: str) -> None:
    await client.put(f"{path}/files", params={"path": "kept"}, content=b"1")
    snapshot = (await client.post(f"{path}/snapshots")).json()
    assert snapshot["parent_id"] is None
    assert snapshot["files"] >= 1
    await client.put(f"{path}/files", params={"path": "kept"}, content=b"2")
    paused = (await client.post(f"{path}/pause")).json()
    assert paused["state"] == "stored"
    assert (await client.post(f"{path}/pause")).json()["state"] == "stored"
    listed = (await client.get(f"{path}/snapshots")).json()["items"]
    assert [one["id"] for one in listed] == [paused["snapshot_id"], snapshot["id"]]
    forks = [await client.post(f"{path}/fork", json=body) for body in ({"snapshot_id": snapshot["id"]}, {})]
    assert [fork.json()["state"] for fork in forks] == ["stored", "stored"]
    contents = [
        (await client.get(f"/api/v1/sandboxes/{fork.json()['id']}/files", params={"path": "kept"})).content
        for fork in forks
    ]
    assert contents == [b"1", b"2"]
    assert (await client.get(f"{path}/files", params={"path": "kept"})).content == b"2"
    assert (await client.get(path)).json()["state"] == "running"
    problem(await client.post(f"{path}/fork", json={"snapshot_id": new_snapshot_id()}), 404, "not_found")
    assert (await client.post(f"{path}/fork")).status_code == 201


async def test_a_snapshot_is_deleted_unless_it_is_needed(
    client: httpx.AsyncClient, path: str, place: str, other_tenant: Tenant
) -> None:
    first = (await client.post(f"{path}/snapshots")).json()["id"]
    second = (await client.post(f"{path}/snapshots")).json()["id"]
    problem(await client.delete(f"{path}/snapshots/{second}"), 409, "conflict")
    async with api(place, other_tenant) as stranger:
        problem(await stranger.delete(f"{path}/snapshots/{first}"), 404, "not_found")
    elsewhere = (await client.post(f"{path}/fork", json={"snapshot_id": second})).json()["id"]
    problem(await client.delete(f"/api/v1/sandboxes/{elsewhere}/snapshots/{first}"), 404, "not_found")
    assert (await client.delete(f"{path}/snapshots/{first}")).status_code == 204
    for gone in (first, "x", new_snapshot_id()):
        problem(await client.delete(f"{path}/snapshots/{gone}"), 404, "not_found")
    problem(await client.post(f"{path}/fork", json={"snapshot_id": first}), 404, "not_found")
    assert [one["id"] for one in (await client.get(f"{path}/snapshots")).json()["items"]] == [second]


async def test_services_run_and_their_ports_are_told(client: httpx.AsyncClient) -> None:
    server = {"name": "web", "argv": ["python3", "-m", "http.server", "8123"], "port": 8123}
    made = (await client.post("/api/v1/sandboxes", json={"services": [server]})).json()
    assert made["services"] == [{**server, "cwd": ".", "env": {}}]
    path = f"/api/v1/sandboxes/{made['id']}"
    async with asyncio.timeout(20):
        while not (ports := (await client.get(f"{path}/ports")).json()["items"]):
            await asyncio.sleep(0.1)
    assert ports[0]["port"] == 8123
