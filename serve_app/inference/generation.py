"""One answer being written: the engine's sink, which measures what passes through it."""

import threading
import time
from collections.abc import Callable
from typing import Any

from serve_app.inference.engines.base import Chunk


class Generation:
    """Handed to the engine as its sink. `cancel` and `evict` come from the event loop, the rest from the engine's thread."""

    def __init__(self, take: Callable[[Chunk], None], on_prompt: Callable[[int], object]) -> None:
        self._take = take
        self._on_prompt = on_prompt
        self._lock = threading.Lock()
        self._has_spoken = False
        self._started = time.perf_counter()
        self.is_cancelled = False
        self.is_evicted = False
        self.first_token_s: float | None = None
        self.prompt_tokens = 0
        self.written_tokens = 0

    def cancel(self) -> None:
        self.is_cancelled = True

    def evict(self) -> bool:
        """Stop an answer that is to be started anew. False when it has spoken already, and so goes on."""
        with self._lock:
            self.is_evicted = self.is_cancelled = not self._has_spoken
            return self.is_evicted

    def prompt(self, tokens: int) -> None:
        if not self.prompt_tokens:
            self.prompt_tokens = tokens
            self._on_prompt(tokens)

    def chunk(self, chunk: Chunk) -> None:
        # A role alone is held back by whoever frames the answer, so it does not keep one from being started anew.
        is_said = _says_something(chunk)
        with self._lock:
            if self.is_evicted:
                return
            self._has_spoken |= is_said
        if usage := chunk.get("usage"):
            self._read(usage)
        elif is_said:
            # A chunk holds about one token; the usage at the end corrects it, unless the client leaves first.
            self.written_tokens += 1
            if self.first_token_s is None:
                self.first_token_s = time.perf_counter() - self._started
        self._take(chunk)

    def _read(self, usage: dict[str, Any]) -> None:
        self.prompt_tokens = usage["prompt_tokens"]
        self.written_tokens = usage["completion_tokens"]


def _says_something(chunk: Chunk) -> bool:
    return any(value for choice in chunk["choices"] for name, value in choice["delta"].items() if name != "role")
