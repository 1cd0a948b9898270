"""From an engine's chunks to what goes over the wire: framed events, or one completion object."""

from collections.abc import Callable
from typing import Any

import orjson

from serve_app.inference.engines.base import Chunk

DONE = b"data: [DONE]\n\n"


class FramedAnswer:
    """Turns each chunk into a server-sent event, once, for everybody down the line to relay untouched."""

    def __init__(self, model: str, send: Callable[[bytes], None], *, include_usage: bool) -> None:
        self._model = model
        self._send = send
        self._include_usage = include_usage
        self._held = b""

    def add(self, chunk: Chunk) -> None:
        chunk["model"] = self._model
        choices = chunk["choices"]
        if not choices:
            if self._include_usage:
                self._send(_frame(chunk))
            return
        if self._include_usage:
            chunk["usage"] = None  # OpenAI: present in every chunk, null in all but the last
        delta = choices[0]["delta"]
        if "role" in delta and not delta.get("content"):
            # Says nothing yet: it travels with the first word instead of ahead of it.
            delta["content"] = ""
            self._held = _frame(chunk)
            return
        self._send(self._held + _frame(chunk))
        self._held = b""

    def end(self) -> None:
        self._send(self._held + DONE)


class WholeAnswer:
    """Gathers the chunks of one answer into a `chat.completion` object."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._head: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[Any] = []
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None

    def add(self, chunk: Chunk) -> None:
        if not self._head:
            self._head = {name: chunk.get(name) for name in ("id", "created", "system_fingerprint")}
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for name, texts in self._texts.items():
                if delta.get(name):
                    texts.append(delta[name])
            for call in delta.get("tool_calls") or ():
                self._add_tool_call(call)
            self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
            self._finish_reason = choice["finish_reason"] or self._finish_reason

    def body(self) -> bytes:
        """The completion as JSON."""
        calls = [self._tool_calls[index] for index in sorted(self._tool_calls)]
        text = "".join(self._texts["content"])
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not text else text,
            "refusal": None,
        }
        if reasoning := "".join(self._texts["reasoning_content"]):
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": self._logprobs, "refusal": None} if self._logprobs else None,
            "finish_reason": self._finish_reason,
        }
        return orjson.dumps(
            {
                "id": self._head["id"],
                "object": "chat.completion",
                "created": self._head["created"],
                "model": self._model,
                "choices": [choice],
                "usage": self._usage,
                "system_fingerprint": self._head["system_fingerprint"],
            }
        )

    def _add_tool_call(self, part: dict[str, Any]) -> None:
        """The first part of a call carries its id and name; every part may carry more of its arguments."""
        call = self._tool_calls.setdefault(
            part["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""


def _frame(chunk: Chunk) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
