"""What vLLM answers, in our words: batches of events, and its errors as ours."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import orjson

from configs.catalog import ModelEntry
from serve_app.core.errors import (
    AetherError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnknownModelError,
)
from serve_app.core.telemetry import get_logger
from serve_app.inference.engines.base import PARAMETERS
from serve_app.inference.grammars import refuse_broken_promises

_PARAMETERS = (*PARAMETERS, "max_completion_tokens", "reasoning_effort")
_LOOKS_AROUND = re.compile(r"\(\?<?[=!]|\\[1-9bB]")
_ERROR_EVENT = 'data: {"error"'
_CONTEXT = re.compile(r"maximum context length is (?P<context>\d+) tokens")
_PROMPT = re.compile(r"contains (?P<prompt>\d+) input tokens")
_GRAMMAR = re.compile(r"grammar|schema|xgrammar|structured", re.IGNORECASE)
_LONGEST_REASON = 300


class Dumps(Protocol):
    """vLLM's response objects, as far as we know them."""

    def model_dump(self) -> dict[str, Any]: ...


def payload(model: ModelEntry, request: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """A checked body of `/v1/chat/completions` for vLLM: with the model's own defaults, without empty values."""
    refuse_broken_promises(request.get("response_format"), _is_regular, "leave out what looks around or back.")
    # Nothing of vLLM's own gets through: some of it (a chat template) would be run.
    given = {name: request[name] for name in _PARAMETERS if request.get(name) is not None}
    body = {**model.sampling.model_dump(exclude_none=True), **given, "model": model.id, "stream": stream}
    if stream and request.get("stream_options"):
        body["stream_options"] = request["stream_options"]
    return body


def join(items: Iterable[str | Dumps], model: ModelEntry) -> tuple[bytes, AetherError | None]:
    """Events gathered from a stream, ready to relay, and the error that ends it after them, if one does."""
    frames: list[str] = []
    for item in items:
        if not isinstance(item, str):
            return "".join(frames).encode(), error(item.model_dump(), model)
        if item.startswith(_ERROR_EVENT):
            return "".join(frames).encode(), error(orjson.loads(item.removeprefix("data: ")), model)
        frames.append(item)
    return "".join(frames).encode(), None


def error(body: Mapping[str, Any], model: ModelEntry) -> AetherError:
    """One of ours for an error object of vLLM's."""
    told = body["error"]
    message, code = str(told.get("message")), told.get("code")
    if found := _CONTEXT.search(message):
        prompt = _PROMPT.search(message)
        tokens = {"prompt_tokens": int(prompt["prompt"])} if prompt else {}
        return ContextLengthError(
            f"This model's context is {found['context']} tokens. Your messages and the answer you ask for need more. "
            "Shorten them.",
            param="messages",
            context_tokens=int(found["context"]),
            **tokens,
        )
    get_logger().warning("engine refused", reason=message[:500], code=code)
    match code:
        case 404:
            return UnknownModelError(f"The model '{model.id}' is not loaded here.", param="model")
        case 429 | 503:
            return OverloadedError("Too many requests wait for this model. Try again in a moment.")
        case int() if 400 <= code < 500:
            reason = message.partition("\n")[0][:_LONGEST_REASON]
            param = told.get("param") or ("response_format" if _GRAMMAR.search(message) else None)
            return InvalidRequestError(f"The model engine cannot do this: {reason}", param=param)
        case _:
            return EngineError("The model engine could not answer this request.")


def _is_regular(pattern: str) -> bool:
    """The grammar passes over whatever is not a regular expression in the strict sense."""
    return not _LOOKS_AROUND.search(pattern)
