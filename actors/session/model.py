"""How an agent thinks: the platform's own `/v1`, spoken over HTTP so that every model answers the same way."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import orjson

from actors.session.steps import Message
from serve_app.core.domain.callers import Caller
from serve_app.core.errors import (
    AetherError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
    UnknownModelError,
)
from serve_app.core.services.callers import MODELS_TICKET, TicketSigner
from serve_app.core.telemetry import carrier

_TICKET_TTL_S = 300.0
# A request that waits for its turn at the model hears nothing until then; a dead one is noticed by its connection.
_SILENCE_S = 600.0
_MAX_LINE_BYTES = 4 * 1024 * 1024
_BY_CODE: dict[str, type[AetherError]] = {
    kind.code: kind for kind in (ContextLengthError, UnknownModelError, InvalidRequestError)
}


@dataclass(frozen=True)
class Delta:
    """What the model has said since the last one."""

    text: str


@dataclass(frozen=True)
class End:
    """How the model stopped, and what it used."""

    finish_reason: str
    usage: dict[str, Any]


class Model(Protocol):
    """Streams one answer."""

    def answer(
        self, caller: Caller, model: str, messages: Sequence[Message], max_tokens: int
    ) -> AsyncGenerator[Delta | End, None]:
        """Ends with exactly one `End`.

        Raises:
            UnavailableError: worth trying again.
            InvalidRequestError: the request can never work, for example a prompt longer than the context.
        """
        ...


class HttpModel:
    """Speaks the OpenAI dialect to `base_url` (ends in `/v1`), as the user the session belongs to."""

    def __init__(self, base_url: str, tickets: TicketSigner) -> None:
        self._base_url = base_url
        self._tickets = tickets
        # The platform calls itself: no proxy from the environment stands in between. Between tokens a busy
        # machine may be silent for long.
        self._http = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(_SILENCE_S, connect=5.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )

    async def answer(
        self, caller: Caller, model: str, messages: Sequence[Message], max_tokens: int
    ) -> AsyncGenerator[Delta | End, None]:
        body = {
            "model": model,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {
            "authorization": f"Bearer {self._tickets.issue(caller, MODELS_TICKET, _TICKET_TTL_S)}",
            "content-type": "application/json",
            **carrier(),
        }
        url = f"{self._base_url}/chat/completions"
        finish_reason: str | None = None
        usage: dict[str, Any] = {}
        try:
            async with self._http.stream("POST", url, content=orjson.dumps(body), headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(response.status_code, await response.aread())
                async with aclosing(_chunks(response)) as chunks:
                    async for batch in chunks:
                        text = ""
                        for chunk in batch:
                            if error := chunk.get("error"):
                                raise _error(error)
                            usage = chunk.get("usage") or usage
                            for choice in chunk.get("choices", ()):
                                text += choice["delta"].get("content") or ""
                                finish_reason = choice.get("finish_reason") or finish_reason
                        if text:
                            yield Delta(text)
        except httpx.TransportError as exc:
            raise UnavailableError("The model did not answer to the end.") from exc
        if finish_reason is None:
            raise UnavailableError("The model's answer broke off.")
        yield End(finish_reason, usage)

    async def close(self) -> None:
        await self._http.aclose()


async def _chunks(response: httpx.Response) -> AsyncGenerator[list[dict[str, Any]], None]:
    """The chunks of each piece the network brought, so that what arrived together stays together."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise EngineError("The model sent a line without an end.")
        found = [
            orjson.loads(line[5:])
            for line in lines
            if line.startswith(b"data:") and line[5:].strip() not in {b"", b"[DONE]"}
        ]
        if found:
            yield found


def _refusal(status: int, body: bytes) -> AetherError:
    try:
        error = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        error = {}
    if not isinstance(error, dict) or not error:
        return UnavailableError("The model is not reachable right now.") if status >= 500 else EngineError("Refused.")
    if error.get("code") == OverloadedError.code or status == httpx.codes.TOO_MANY_REQUESTS:
        return OverloadedError(str(error.get("message", "The model is busy.")))
    if status >= 500:
        return UnavailableError(str(error.get("message", "The model is busy.")))
    return _error(error)


def _error(error: dict[str, Any]) -> AetherError:
    kind = _BY_CODE.get(str(error.get("code")))
    message = str(error.get("message", "The model failed."))
    if kind:
        return kind(message)
    if error.get("type") == "invalid_request_error":
        return InvalidRequestError(message)
    return UnavailableError(message)
