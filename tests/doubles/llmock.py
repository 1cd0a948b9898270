"""llmock, a mock of ten providers with scripted faults, as a process of its own."""

import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.doubles.servers import free_port, running

# Where each provider's own API begins below the server's address.
BASES = {
    "openai": "/v1",
    "anthropic": "/anthropic",
    "gemini": "/gemini",
    "groq": "/groq/openai/v1",
    "mistral": "/mistral/v1",
    "together": "/together/v1",
    "xai": "/xai/v1",
}


class Llmock:
    """A running server; `plays` queues faults and replies, each used up by the requests it matches."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._control = httpx.Client(base_url=f"{url}/_llmock", trust_env=False, timeout=10)

    def base_url(self, provider: str = "openai") -> str:
        return self.url + BASES[provider]

    def plays(self, *behaviors: dict[str, Any]) -> None:
        """In llmock's own words, for example `{"type": "fail", "status": 429, "retry_after": 1, "times": 2}`."""
        self._control.post("/scenario", json={"behaviors": behaviors}).raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """Every request since the last reset, with its timing and the fault it got."""
        found: list[dict[str, Any]] = self._control.get("/requests").raise_for_status().json()["requests"]
        return found

    def findings(self) -> list[dict[str, Any]]:
        """What llmock holds against the client: a retry too early, a truncated stream taken for whole."""
        found: list[dict[str, Any]] = self._control.get("/verdict").raise_for_status().json()["findings"]
        return found

    def reset(self) -> None:
        self._control.post("/reset").raise_for_status()

    def close(self) -> None:
        self._control.close()


def fail(status: int, *, times: int | None = 1, **more: Any) -> dict[str, Any]:
    """`more`: retry_after, message, code, match. `times=None` is for ever."""
    return {"type": "fail", "status": status, "times": times, **more}


def stream_fault(kind: str, *, after_chunks: int = 1, times: int | None = 1, **more: Any) -> dict[str, Any]:
    """`kind`: disconnect, truncate, malformed or stall (with `stall_seconds`)."""
    return {"type": "stream_fault", "kind": kind, "after_chunks": after_chunks, "times": times, **more}


@contextmanager
def running_llmock(folder: Path) -> Iterator[Llmock]:
    port = free_port()
    program = Path(sysconfig.get_path("scripts")) / "llmock"
    command: list[str | Path] = [program, "serve", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with running(command, port=port, log=folder / "llmock.log"):
        llmock = Llmock(f"http://127.0.0.1:{port}")
        yield llmock
        llmock.close()
