"""The platform's public HTTP API, as the command line uses it."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Self, cast

import httpx

from configs.settings import Settings
from serve_app.cli import sse
from serve_app.core.errors import AetherError
from serve_app.embedded import keys
from serve_app.embedded.control import ControlClient
from serve_app.embedded.state import Folders

Json = dict[str, Any]


class PlatformError(AetherError):
    """The platform refused a request or could not be reached."""

    code: ClassVar[str] = "platform"


class PlatformClient:
    """One connection pool and one key. A context manager.

    `patience_s` is how long a lost event stream is tried again before the loss is reported.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        transport: httpx.BaseTransport | None = None,
        patience_s: float = 60.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env off: a proxy meant for the internet must not see requests to this machine. The read timeout is
        # three of the stream's keep-alives.
        self._http = httpx.Client(
            base_url=base_url,
            headers=headers,
            transport=transport,
            trust_env=False,
            timeout=httpx.Timeout(10.0, read=45.0),
        )
        self.base_url = base_url
        self.api_key = api_key
        self._patience_s = patience_s
        self._pause = pause

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def create_session(self, *, title: str | None = None, model: str | None = None) -> Json:
        body = {name: value for name, value in (("title", title), ("model", model)) if value is not None}
        return self._json("POST", "/api/v1/sessions", json=body)

    def session(self, session_id: str) -> Json:
        return self._json("GET", f"/api/v1/sessions/{session_id}")

    def post_message(self, session_id: str, text: str) -> Json:
        """Sent once: a lost answer is asked for again with the same idempotency key."""
        headers = {"idempotency-key": uuid.uuid4().hex}
        path = f"/api/v1/sessions/{session_id}/messages"
        try:
            return self._json("POST", path, json={"text": text}, headers=headers)
        except PlatformError as exc:
            if not exc.details.get("is_connection"):
                raise
            self._pause(1.0)
            return self._json("POST", path, json={"text": text}, headers=headers)

    def preview_link(self, creation_id: str) -> Json:
        return self._json("POST", f"/api/v1/creations/{creation_id}/preview-links")

    def models(self) -> list[Json]:
        """Models and aliases that can be called now."""
        return cast("list[Json]", self._json("GET", "/v1/models")["data"])

    def usage(self, group_by: str, since: datetime) -> list[Json]:
        """Sums by `day`, `model`, `provider`, `user` or `key`."""
        return cast(
            "list[Json]",
            self._json("GET", "/api/v1/usage", params={"group_by": group_by, "from": since.isoformat()})["items"],
        )

    def create_sandbox(self, profile: str | None) -> Json:
        body = {} if profile is None else {"profile": profile}
        return self._json("POST", "/api/v1/sandboxes", json=body, headers={"idempotency-key": uuid.uuid4().hex})

    def sandboxes(self) -> list[Json]:
        """All that have not ended, the newest first."""
        found: list[Json] = []
        params = {"limit": "200"}
        while True:
            page = self._json("GET", "/api/v1/sandboxes", params=params)
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            params["cursor"] = page["next_cursor"]

    def upload(self, sandbox_id: str, path: str, content: Iterable[bytes]) -> None:
        """A file of any size, never held in memory."""
        self._json("PUT", f"/api/v1/sandboxes/{sandbox_id}/files", params={"path": path}, content=content)

    def delete_sandbox(self, sandbox_id: str) -> None:
        self._json("DELETE", f"/api/v1/sandboxes/{sandbox_id}")

    def execute(self, sandbox_id: str, body: Json) -> Iterator[tuple[str, Json]]:
        """Run a program and yield its events as they come. Whoever stops iterating kills it."""
        headers = {"accept": "text/event-stream"}
        try:
            path = f"/api/v1/sandboxes/{sandbox_id}/exec"
            with self._http.stream("POST", path, json=body, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise _refused(response)
                for event in sse.parse(response.iter_lines()):
                    yield event.type, json.loads(event.data)
        except httpx.TransportError as exc:
            raise _unreachable(self.base_url, exc) from exc

    def events(self, session_id: str, *, after: int, on_open: Callable[[], None] | None = None) -> Iterator[Json]:
        """Follow a session: every durable event after `after` once, in order, and live ones as they come.

        `on_open` is called once, when the stream is first connected: what is posted then is seen from its start.
        A lost connection is taken up again after the last durable event.

        Raises:
            PlatformError: the platform refused, or stayed away for longer than the client's patience.
        """
        last_seq = after
        lost_at: float | None = None
        pause_s = 0.1
        while True:
            try:
                with self._http.stream(
                    "GET", f"/api/v1/sessions/{session_id}/events", headers={"last-event-id": str(last_seq)}
                ) as response:
                    if response.is_error:
                        response.read()
                        raise _refused(response)
                    if on_open is not None:
                        on_open()
                        on_open = None
                    for event in sse.parse(response.iter_lines()):
                        lost_at, pause_s = None, 0.1
                        data: Json = json.loads(event.data)
                        if (seq := data.get("seq")) is not None:
                            if seq <= last_seq:
                                continue
                            last_seq = seq
                        yield data
            except httpx.TransportError as exc:
                if on_open is not None:
                    raise _unreachable(self.base_url, exc) from exc
            except PlatformError as exc:
                if exc.details.get("status", 0) < 500 or on_open is not None:
                    raise
            # The proxy ends long streams when it is replaced; that is no failure, only a reason to come back.
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > self._patience_s:
                raise PlatformError("The event stream was lost and did not come back.", mend="aether status")
            self._pause(pause_s)
            pause_s = min(pause_s * 2, 2.0)

    def _json(
        self,
        method: str,
        path: str,
        *,
        json: Json | None = None,
        content: Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> Json:
        try:
            response = self._http.request(method, path, json=json, content=content, headers=headers, params=params)
        except httpx.TransportError as exc:
            raise _unreachable(self.base_url, exc) from exc
        if response.is_error:
            raise _refused(response)
        return cast("Json", response.json()) if response.content else {}


def connect(settings: Settings) -> PlatformClient:
    """The platform the settings name, else the one on this machine, with its key."""
    folders = Folders(settings.data_dir)
    base_url = settings.client.url
    if base_url is None:
        snapshot = ControlClient(folders.control_socket).status()
        base_url = snapshot.base_url if snapshot else settings.base_url
    key = settings.client.api_key
    return PlatformClient(base_url.rstrip("/"), key.get_secret_value() if key else keys.read(folders.cli_key_file))


def _unreachable(base_url: str, exc: httpx.TransportError) -> PlatformError:
    if isinstance(exc, httpx.ConnectError):
        return PlatformError(f"Nothing answers at {base_url}.", mend="aether up", is_connection=True)
    return PlatformError(f"The connection to {base_url} broke.", mend="aether status", is_connection=True)


def _refused(response: httpx.Response) -> PlatformError:
    return refusal(response.status_code, response.content)


def refusal(status: int, body: bytes) -> PlatformError:
    """What a problem document says."""
    try:
        problem = json.loads(body)
        said = problem.get("detail") or problem.get("title")
        code, request_id = problem.get("code"), problem.get("request_id")
    except (ValueError, AttributeError):
        said, code, request_id = None, None, None
    mend = None
    if status == 401:
        mend = "set AETHER_CLIENT_API_KEY to a key of this platform"
    elif request_id:
        mend = f"request id {request_id}"
    message = f"{said or 'The platform answered'} ({status}{f', {code}' if code else ''})"
    return PlatformError(message, mend=mend, status=status, problem=code)
