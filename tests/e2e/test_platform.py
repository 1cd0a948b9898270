"""The platform as its users meet it."""

import json
import re
import secrets
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.e2e.conftest import Platform, TraceReceiver


def open_session(client: httpx.Client) -> str:
    made = client.post("/api/v1/sessions", json={"title": "e2e"})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def post(client: httpx.Client, session: str, text: str, key: str | None = None) -> int:
    headers = {"idempotency-key": key} if key else {}
    posted = client.post(f"/api/v1/sessions/{session}/messages", json={"text": text}, headers=headers)
    assert posted.status_code == 202, posted.text
    return int(posted.json()["seq"])


class Follower:
    """A client that reconnects with its last `seq` until a turn ends, as the README tells clients to."""

    def __init__(self, client: httpx.Client, session: str, after: int = 0) -> None:
        self.client, self.session, self.last = client, session, after
        self.events: list[dict[str, Any]] = []
        self.live: list[dict[str, Any]] = []
        self.connects = 0

    def until(self, *types: str, timeout_s: float = 90) -> list[dict[str, Any]]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if self._listen(types):
                    return self.events
            except (httpx.TransportError, httpx.HTTPStatusError):
                time.sleep(0.2)
        raise AssertionError(f"no {types} within {timeout_s} s; saw {[e['type'] for e in self.events]}")

    def _listen(self, types: tuple[str, ...]) -> bool:
        self.connects += 1
        url = f"/api/v1/sessions/{self.session}/events"
        headers = {"last-event-id": str(self.last)} if self.last else {}
        with self.client.stream("GET", url, headers=headers, timeout=httpx.Timeout(10, read=20)) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line[6:])
                if event["seq"] is None:
                    self.live.append(event)
                else:
                    self.last = event["seq"]
                    self.events.append(event)
                if event["type"] in types:
                    return True
        return False


WHOLE_TURN = ["message.user", "message.assistant", "creation.version", "turn.completed"]


def assert_whole(events: list[dict[str, Any]], turns: int = 1) -> None:
    """Each event once, in order, without a hole, and every turn complete."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events] == ["session.created", *WHOLE_TURN * turns]


def test_a_prompt_becomes_a_creation_that_is_streamed_stored_and_read(platform: Platform) -> None:
    with platform.client() as client:
        session = open_session(client)
        follower = Follower(client, session)
        post(client, session, "Write two sentences about rivers.")
        events = follower.until("turn.completed")
        assert_whole(events)
        deltas = [event for event in follower.live if event["type"] == "message.delta"]
        answer = events[2]["data"]
        assert "".join(delta["data"]["text"] for delta in deltas) == answer["text"]
        assert len(deltas) > 3, "the answer was not streamed"
        assert answer["usage"]["completion_tokens"] > 0
        made = events[3]["data"]
        file = client.get(f"/api/v1/creations/{made['creation_id']}/versions/1/files/{made['path']}")
        assert file.text == answer["text"]
        link = client.post(f"/api/v1/creations/{made['creation_id']}/preview-links").json()["url"]
        # Only browsers know that *.localhost is this machine, so name the address and say the host.
        host, path = re.fullmatch(r"http://([^/]+)(/.*)", link).groups()  # type: ignore[union-attr]  # it matched above
        page = httpx.get(platform.url + path, headers={"host": host}, trust_env=False)
        assert page.status_code == 303
        shown = httpx.get(
            platform.url + "/", headers={"host": host, "cookie": page.headers["set-cookie"].split(";")[0]},
            trust_env=False,
        )  # fmt: skip
        assert shown.status_code == 200
        assert "Version 1 of 1" in shown.text


def test_the_owners_key_was_shown_once_and_a_second_up_finds_the_first(platform: Platform) -> None:
    again = platform.aether("up", "--detach", timeout_s=20)
    assert "aek_" not in again.stdout + again.stderr
    assert str(platform.port) in again.stdout
    logs = "".join(path.read_text(errors="replace") for path in platform.data_dir.rglob("*.log"))
    assert platform.owner_key not in logs
    assert platform.owner_key.split("_", 2)[2] not in logs


def test_the_openai_package_works_unchanged(platform: Platform) -> None:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.owner_key, max_retries=0) as client:
        assert {"smollm2-135m", "all-minilm-l6-v2", "auto"} <= {model.id for model in client.models.list()}
        messages: list[Any] = [{"role": "user", "content": "Say hello."}]
        whole = client.chat.completions.create(
            model="smollm2-135m", messages=messages, max_tokens=10, temperature=0, seed=1
        )
        assert whole.usage
        assert whole.usage.completion_tokens <= 10
        stream = client.chat.completions.create(
            model="smollm2-135m", messages=messages, max_tokens=10, temperature=0, seed=1, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        text, usage = "", None
        for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert text == whole.choices[0].message.content
        assert usage
        assert usage.completion_tokens == whole.usage.completion_tokens
        assert usage.prompt_tokens == whole.usage.prompt_tokens
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="nope", messages=messages)
        assert unknown.value.code == "model_not_found"
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key="aek_bad", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"


def test_nothing_listens_beyond_loopback(platform: Platform) -> None:
    pids = {process["pid"] for process in platform.status()["processes"]}
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line for line in listening if any(f"pid={pid}," in line for pid in pids)]
    assert len(ours) > 5, "the test does not see the platform's sockets"
    outside = [line for line in ours if not re.search(r"\s(127\.0\.0\.1|\[::ffff:127\.0\.0\.1\]|\[::1\]):\d+\s", line)]
    assert outside == []


def test_files_are_readable_by_their_owner_alone(platform: Platform) -> None:
    assert platform.data_dir.stat().st_mode & 0o077 == 0
    for path in platform.data_dir.iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path


def test_bad_input_is_refused_through_the_whole_stack(platform: Platform) -> None:
    with platform.client() as client:
        big = client.post("/api/v1/sessions", content=b'{"title": "' + b"x" * 50_000_000 + b'"}')
        assert (big.status_code, big.json()["code"]) == (413, "body_too_large")
        assert big.headers.get_list("x-request-id") == [big.json()["request_id"]]
        assert big.json()["request_id"] in platform.aether("logs", "workers", "-n", "50").stdout
        big = client.post("/v1/chat/completions", content=b'{"model": "' + b"x" * 50_000_000 + b'"}')
        assert big.status_code == 413
        assert set(big.json()) == {"error"}
        broken = client.post("/v1/chat/completions", content=b"{")
        assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
        session = open_session(client)
        follower = Follower(client, session)
        post(client, session, "word " * 60_000)
        failed = follower.until("turn.failed")[-1]
        assert failed["data"]["code"] == "context_length_exceeded"


def wait_for_delta(client: httpx.Client, session: str) -> Follower:
    """Returns while the model is speaking."""
    follower = Follower(client, session)
    follower.until("message.delta")
    return follower


LONG = "Write a long story about a ship. Use many words."


def test_kill_9_of_the_agent_host_in_mid_turn(platform: Platform) -> None:
    with platform.client() as client:
        session = open_session(client)
        post(client, session, LONG)
        follower = wait_for_delta(client, session)
        platform.kill_9("AgentHost")
        assert_whole(follower.until("turn.completed"))


def test_kill_9_of_the_inference_replica_in_mid_turn(platform: Platform) -> None:
    with platform.client() as client:
        session = open_session(client)
        post(client, session, LONG)
        follower = wait_for_delta(client, session)
        platform.kill_9("ServeReplica:inference")
        assert_whole(follower.until("turn.completed"))


def test_kill_9_of_the_api_replica_under_a_watcher(platform: Platform) -> None:
    with platform.client() as client:
        session = open_session(client)
        post(client, session, LONG)
        follower = wait_for_delta(client, session)
        platform.kill_9("ServeReplica:api")
        assert_whole(follower.until("turn.completed"))
        assert follower.connects >= 2, "the watcher was never cut off"


def test_kill_9_of_postgresql_in_mid_turn(platform: Platform) -> None:
    with platform.client() as client:
        session = open_session(client)
        acknowledged = [post(client, session, LONG)]
        follower = wait_for_delta(client, session)
        platform.kill_9("postgres")
        # A client that tries again with the same key gets one message, whatever happened to the first try.
        acknowledged.append(
            platform.wait_until("a message after the restart", lambda: post(client, session, "And then?", "retry"))
        )
        follower.until("turn.completed")
        events = follower.until("turn.completed")
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["seq"] for event in events if event["type"] == "message.user"] == acknowledged
        assert sum(event["type"] == "creation.version" for event in events) == 2


def test_kill_9_of_valkey_in_mid_turn(platform: Platform) -> None:
    with platform.client() as client:
        session = open_session(client)
        post(client, session, LONG)
        follower = wait_for_delta(client, session)
        platform.kill_9("valkey")
        assert_whole(follower.until("turn.completed"))
        # And live again: the next answer is streamed.
        post(client, session, "Say one word.")
        again = Follower(client, session, follower.last)
        again.until("turn.completed")
        assert again.live


def test_many_users_at_once_each_get_their_own(platform: Platform) -> None:
    def one(number: int) -> None:
        with platform.client() as client:
            session = open_session(client)
            follower = Follower(client, session)
            post(client, session, f"Say the number {number}.")
            assert_whole(follower.until("turn.completed", timeout_s=120))

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(one, number) for number in range(8)]:
            done.result()


def test_a_model_stops_when_its_client_leaves(platform: Platform) -> None:
    body = {
        "model": "smollm2-135m",
        "stream": True,
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": LONG}],
    }
    with platform.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_bytes())
    pid = next(p["pid"] for p in platform.status()["processes"] if "ServeReplica:inference" in p["component"])
    process = psutil.Process(pid)

    def is_quiet() -> bool:
        return process.cpu_percent(interval=0.5) < 50

    platform.wait_until("the model stops", is_quiet, timeout_s=10)


def test_metrics_reach_prometheus(platform: Platform) -> None:
    url = platform.status()["metrics_url"]

    def published() -> bool:
        text = httpx.get(url, trust_env=False).text
        return "ray_aether_http_requests" in text and "ray_aether_model_tokens" in text

    platform.wait_until("our metrics on the node's endpoint", published, timeout_s=40)


def test_one_trace_follows_a_message_through_http_serve_and_actors(platform: Platform, traces: TraceReceiver) -> None:
    trace_id = secrets.token_hex(16)
    with platform.client() as client:
        client.headers["traceparent"] = f"00-{trace_id}-{secrets.token_hex(8)}-01"
        session = open_session(client)
        post(client, session, "Say yes.")
        Follower(client, session).until("turn.completed")

    def services() -> set[str]:
        return {service for trace, service, _ in traces.spans if trace == trace_id}

    wanted = {"aetheros-api", "aetheros-agent-host", "aetheros-models", "aetheros-inference"}
    platform.wait_until("spans of every process", lambda: services() >= wanted, timeout_s=15)


def test_create_on_the_command_line(platform: Platform) -> None:
    done = platform.aether("create", "One sentence about clouds.")
    assert re.search(r"cre_\w{26}", done.stdout)
    assert f".localhost:{platform.port}/" in done.stdout
