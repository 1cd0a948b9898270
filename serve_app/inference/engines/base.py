"""The ports of model engines, and what an engine reports while it writes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Chunk = dict[str, Any]
"""One `chat.completion.chunk` object of OpenAI's dialect, as the engine made it."""

PARAMETERS = (
    "messages",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "max_tokens",
    "response_format",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
)
"""What an engine is told of a request. The router has refused what is not among them and would be dropped."""


class Sink(Protocol):
    """Where an engine reports. It is called in the engine's thread and must be quick."""

    @property
    def is_cancelled(self) -> bool:
        """True once nobody wants the answer; the engine stops at its next step."""
        ...

    def prompt(self, tokens: int) -> None:
        """The length of the prompt, told before the first chunk when the engine knows it."""

    def chunk(self, chunk: Chunk) -> None: ...


class Engine(Protocol):
    """One loaded model. Every method blocks its thread; any number of threads may call at once."""

    def generate(self, request: Mapping[str, Any], sink: Sink) -> None:
        """Answer one validated chat completion, always as a stream that ends with a usage chunk.

        Returns early, without an error, when the sink is cancelled.

        Raises:
            ContextLengthError: the prompt is longer than the context.
            InvalidRequestError: the engine cannot do what is asked.
            OverloadedError: the engine ran out of memory for what it holds at once.
            EngineError: it failed for a reason of its own.
        """

    def check(self) -> None:
        """Return once the engine's own loop has answered. Raises `EngineError` when it says it cannot."""

    def close(self) -> None:
        """Free the model. No call may be running."""


class Embedder(Protocol):
    """One loaded embedding model. Every method blocks its thread; any number of threads may call at once."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, the model's own markers included.

        Raises:
            ContextLengthError: a text is longer than the model reads; nothing is cut off.
        """
        ...

    def embed(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        """One vector of length 1 for each prompt, in their order. Raises `EngineError`."""
        ...

    def check(self) -> None:
        """Return once the engine's own loop has answered. Raises `EngineError` when it says it cannot."""

    def close(self) -> None:
        """Free the model. No call may be running."""
