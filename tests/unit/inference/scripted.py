"""An engine that says what a test tells it to, when the test lets it."""

import threading
from collections.abc import Mapping
from typing import Any

from serve_app.inference.engines.base import Chunk, Sink


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> Chunk:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return {"id": "c1", "created": 1, "object": "chat.completion.chunk", "model": "/a/file", "choices": choices}


class ScriptedEngine:
    """Says `words`; before the word at `pause_at` it waits for `go_on`; then fails with `error`, or ends."""

    def __init__(
        self,
        words: list[str],
        pause_at: int | None = None,
        error: Exception | None = None,
        prompt_tokens: int = 5,
        delay_s: float = 0.0,
    ) -> None:
        self.words = words
        self.pause_at = pause_at
        self.error = error
        self.prompt_tokens = prompt_tokens
        self.delay_s = delay_s
        self.go_on = threading.Event()
        self.requests: list[Mapping[str, Any]] = []
        self.running = 0
        self.most_running = 0
        self.said = 0
        self.is_closed = False
        self._lock = threading.Lock()

    def generate(self, request: Mapping[str, Any], sink: Sink) -> None:
        with self._lock:
            self.requests.append(request)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            self._say(sink)
        finally:
            with self._lock:
                self.running -= 1

    def check(self) -> None:
        if self.is_closed:
            raise RuntimeError

    def close(self) -> None:
        self.is_closed = True

    def _say(self, sink: Sink) -> None:
        sink.prompt(self.prompt_tokens)
        sink.chunk(chunk({"role": "assistant", "content": None}))
        for index, word in enumerate(self.words):
            if index == self.pause_at:
                while not self.go_on.wait(0.005):
                    if sink.is_cancelled:
                        return
            if self.delay_s:
                self.go_on.wait(self.delay_s)
            if sink.is_cancelled:
                return
            sink.chunk(chunk({"content": word}))
            self.said += 1
        if self.error:
            raise self.error
        sink.chunk(chunk({}, "stop"))
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": len(self.words), "total_tokens": 99}
        sink.chunk({**chunk({}), "choices": [], "usage": usage})
