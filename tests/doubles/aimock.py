"""aimock (npm), a mock whose conversations are scripted turn by turn, as a process of its own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.doubles.node import node_modules
from tests.doubles.servers import free_port, running


class Aimock:
    """A running server; it speaks Chat Completions, Responses, Anthropic Messages and Gemini on one port."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._control = httpx.Client(base_url=f"{url}/__aimock", trust_env=False, timeout=10)

    def plays(self, *turns: dict[str, Any]) -> None:
        """Fixtures in aimock's own words: `match` and `response`. The first that matches a request answers it."""
        self._control.post("/fixtures", json={"fixtures": turns}).raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """Every request since the last reset: method, path, headers, body, response."""
        found: list[dict[str, Any]] = self._control.get("/journal").raise_for_status().json()
        return found

    def reset(self) -> None:
        self._control.post("/reset").raise_for_status()

    def close(self) -> None:
        self._control.close()


def calls(asked: str, *tool_calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """When the user's message contains `asked` and no tool has answered yet: these tool calls, in one turn."""
    listed = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in tool_calls]
    return {"match": {"userMessage": asked, "hasToolResult": False}, "response": {"toolCalls": listed}}


def says(asked: str, text: str, *, after_tools: bool = False) -> dict[str, Any]:
    """When the user's message contains `asked`: this text; `after_tools`: once a tool has answered."""
    match: dict[str, Any] = {"userMessage": asked}
    if after_tools:
        match["hasToolResult"] = True
    return {"match": match, "response": {"content": text}}


@contextmanager
def running_aimock(folder: Path) -> Iterator[Aimock]:
    port = free_port()
    # It wants a folder of fixtures; ours come later, through its control API.
    fixtures = folder / "aimock"
    fixtures.mkdir(exist_ok=True)
    program = node_modules() / "@copilotkit" / "aimock" / "dist" / "cli.js"
    command: list[str | Path] = ["node", program, "--host", "127.0.0.1", "--port", str(port), "--fixtures", fixtures]
    with running(command, port=port, log=folder / "aimock.log"):
        aimock = Aimock(f"http://127.0.0.1:{port}")
        yield aimock
        aimock.close()
