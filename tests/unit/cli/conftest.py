"""A scripted platform: the public HTTP API's answers, without a server."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serve_app.cli.client import PlatformClient

Json = dict[str, Any]


def sse(*events: Json) -> str:
    """Events as the platform writes them."""
    lines = [": keep-alive", ""]
    for event in events:
        if event.get("seq") is not None:
            lines.append(f"id: {event['seq']}")
        lines += [f"event: {event['type']}", f"data: {json.dumps(event)}", ""]
    return "\n".join(lines) + "\n"


def event(kind: str, seq: int | None = None, /, **data: Any) -> Json:
    return {"session_id": "ses_1", "seq": seq, "type": kind, "at": "2026-01-01T00:00:00Z", "data": data}


VERSION = event(
    "creation.version",
    4,
    turn=1,
    creation_id="cre_1",
    version_id="ver_1",
    number=1,
    title="A sea",
    kind="document",
    path="document.md",
    media_type="text/markdown",
    size_bytes=1234,
)
WHOLE_TURN = [
    event("message.user", 2, text="hi"),
    event("message.delta", turn=1, offset=0, text="The "),
    event("message.delta", turn=1, offset=4, text="sea"),
    event("message.assistant", 3, turn=1, text="The sea.", model="m", finish_reason="stop"),
    VERSION,
    event("turn.completed", 5, turn=1, seconds=1.0),
]


class ScriptedPlatform:
    """Answers the client's requests; each connection to the events gets the next script."""

    def __init__(self) -> None:
        self.streams: list[str | int | Exception] = []
        self.asked_after: list[str] = []
        self.keys: list[str] = []
        self.posts: list[str | int | Exception] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        match request.method, path.split("/")[-1]:
            case "POST", "sessions":
                return httpx.Response(201, json={"id": "ses_1", "last_seq": 1, "model": "m"})
            case "POST", "messages":
                self.keys.append(request.headers["idempotency-key"])
                return self._answer(self.posts.pop(0) if self.posts else '{"session_id": "ses_1", "seq": 2}', 202)
            case "GET", "events":
                self.asked_after.append(request.headers["last-event-id"])
                return self._answer(self.streams.pop(0), 200)
            case "POST", "preview-links":
                return httpx.Response(201, json={"url": "http://cre-1.localhost:8000/x", "expires_at": "…"})
            case _:
                return self._answer(404, 404)

    @staticmethod
    def _answer(script: str | int | Exception, status: int) -> httpx.Response:
        if isinstance(script, Exception):
            raise script
        if isinstance(script, int):
            problem = {"title": "Refused", "detail": "No such thing.", "code": "not_found", "request_id": "req_1"}
            return httpx.Response(script, json=problem)
        return httpx.Response(status, text=script)


@pytest.fixture
def platform() -> ScriptedPlatform:
    return ScriptedPlatform()


@pytest.fixture
def make_client(platform: ScriptedPlatform) -> Callable[[], PlatformClient]:
    def make() -> PlatformClient:
        return PlatformClient(
            "http://platform", "aek_k", transport=httpx.MockTransport(platform), patience_s=0.2, pause=lambda _s: None
        )

    return make
