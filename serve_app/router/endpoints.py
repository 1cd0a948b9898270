"""What each path under `/v1` does: check a body in its dialect, ask the gateway, or tell what there is."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from serve_app.core.domain.callers import Caller
from serve_app.core.errors import AetherError, InvalidRequestError, MalformedBodyError
from serve_app.core.services.requests import header
from serve_app.core.telemetry import get_logger
from serve_app.core.telemetry.asgi import REQUEST_ID_KEY, Scope
from serve_app.router.continued import Continued, continued, continued_events
from serve_app.router.conversation import Conversations
from serve_app.router.dialects import anthropic_schema, openai_chat_schema, responses_schema
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.gateway import Answered, Asking, Gateway
from serve_app.router.models import ModelList
from serve_app.router.needs import Endpoint
from serve_app.router.policy import explain
from serve_app.router.providers.base import Call, Pieces

JSON = [(b"content-type", b"application/json")]
_FORWARDED = frozenset({b"anthropic-version", b"anthropic-beta"})
_MAX_SESSION_CHARS = 100


@dataclass(frozen=True)
class Request:
    """An authenticated request, its body read. `rest` is what stands in the path where a route has a name."""

    scope: Scope
    caller: Caller
    body: bytes
    started: float
    rest: str = ""

    @property
    def request_id(self) -> str:
        return str(self.scope.get(REQUEST_ID_KEY, ""))

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.scope.get("query_string", b"").decode("latin-1"))

    def said(self, name: str) -> str | None:
        """The first value of a query parameter."""
        return next(iter(self.query.get(name, ())), None)


Handler = Callable[[Request], Awaitable[Answered]]


class Endpoints:
    """Every method is one path. All raise `AetherError`, which the edge tells in the path's dialect."""

    def __init__(self, gateway: Gateway, conversations: Conversations, models: ModelList) -> None:
        self._gateway = gateway
        self._conversations = conversations
        self._models = models

    async def chat_completions(self, request: Request) -> Answered:
        raw = parse(request.body)
        openai_chat_schema.validate(raw)
        return await self._gateway.answer(_asking(request, raw, Dialect.OPENAI_CHAT, "openai-chat"))

    async def embeddings(self, request: Request) -> Answered:
        raw = parse(request.body)
        openai_chat_schema.validate_embeddings(raw)
        call = Call(Dialect.OPENAI_CHAT, request.body, raw, kind="embeddings")
        return await self._gateway.answer(_asking_for(request, call, "embeddings"))

    async def messages(self, request: Request) -> Answered:
        raw = parse(request.body)
        anthropic_schema.validate(raw)
        return await self._gateway.answer(_asking(request, raw, Dialect.ANTHROPIC, "anthropic"))

    async def count_tokens(self, request: Request) -> Answered:
        raw = parse(request.body)
        anthropic_schema.validate_count_tokens(raw)
        call = Call(Dialect.ANTHROPIC, request.body, raw, kind="count_tokens", headers=_forwarded(request.scope))
        return await self._gateway.count_tokens(_asking_for(request, call, "anthropic"))

    async def responses(self, request: Request) -> Answered:
        raw = parse(request.body)
        responses_schema.validate(raw)
        if raw.get("background"):
            raise InvalidRequestError(
                "Responses are not made in the background here: leave 'background' out.",
                param="background",
                code="unsupported_parameter",
            )
        resolved = await self._conversations.resolve(request.caller.org_id, raw)
        body = request.body if resolved == raw else orjson.dumps(resolved)
        # The answer repeats what it goes on from, which the provider is not told.
        previous = raw.get("previous_response_id")
        told = resolved if previous is None else {**resolved, "previous_response_id": previous}
        call = Call(Dialect.OPENAI_RESPONSES, body, told)
        answered = await self._gateway.answer(_asking_for(request, call, "openai-responses"))
        answered.settle()
        if previous is not None:
            _tell_previous(answered, previous, is_stream=call.is_stream)
        if answered.is_cached:
            # The one it repeats is stored already.
            return answered
        if answered.body is not None:
            await self.remember(request, raw, orjson.loads(answered.body))
        elif answered.pieces is not None:
            answered.pieces = _Remembered(self, request, raw, answered, answered.pieces)
        return answered

    async def response(self, request: Request) -> Answered:
        org_id = request.caller.org_id
        if request.scope["method"] == "DELETE":
            return _told(await self._conversations.delete(org_id, request.rest))
        return _told(await self._conversations.retrieve(org_id, request.rest))

    async def input_items(self, request: Request) -> Answered:
        limit = request.said("limit") or "20"
        order = request.said("order") or "desc"
        if not (limit.isascii() and limit.isdecimal()):
            raise InvalidRequestError("'limit' must be a whole number.", param="limit", code="invalid_value")
        if order not in {"asc", "desc"}:
            raise InvalidRequestError("'order' must be 'asc' or 'desc'.", param="order", code="invalid_value")
        items = await self._conversations.input_items(
            request.caller.org_id,
            request.rest,
            after=request.said("after"),
            limit=int(limit),
            order="asc" if order == "asc" else "desc",
        )
        return _told(items)

    async def cancel(self, request: Request) -> Answered:
        await self._conversations.retrieve(request.caller.org_id, request.rest)
        raise InvalidRequestError("Only a response made in the background can be cancelled.", code="invalid_value")

    async def models(self, request: Request) -> Answered:
        of = self._models.anthropic if header(request.scope, b"anthropic-version") else self._models.openai
        return _told(await of(request.caller.org_id))

    async def model(self, request: Request) -> Answered:
        of = self._models.one_anthropic if header(request.scope, b"anthropic-version") else self._models.one_openai
        return _told(await of(request.caller.org_id, request.rest))

    async def explain(self, request: Request) -> Answered:
        """Takes a body of any of the dialects, by `dialect`, or the request as `request` with its dialect beside it."""
        raw = parse(request.body)
        endpoint = raw.get("dialect", "openai-chat")
        asked = raw.get("request", {name: value for name, value in raw.items() if name != "dialect"})
        if not isinstance(endpoint, str) or endpoint not in _DIALECTS or not isinstance(asked, dict):
            raise InvalidRequestError(
                f"'dialect' must be one of {', '.join(_DIALECTS)}, and 'request' an object.",
                param="dialect",
                code="invalid_value",
            )
        call = Call(_DIALECTS[endpoint], orjson.dumps(asked), asked)
        _, route = await self._gateway.route_now(_asking_for(request, call, endpoint))
        return _told(explain(route))

    async def remember(self, request: Request, raw: Mapping[str, Any], response: Mapping[str, Any]) -> None:
        try:
            await self._conversations.remember(request.caller.org_id, request.caller.user_id, raw, response)
        except AetherError as exc:
            # The answer is there and paid for; that one cannot go on from it is the smaller loss.
            get_logger().error("response not stored", reason=exc.message)


class _Remembered(Pieces):
    """The last piece goes out when the response is stored: who has seen its end may go on from it."""

    def __init__(
        self, endpoints: Endpoints, request: Request, raw: Mapping[str, Any], answered: Answered, pieces: Pieces
    ) -> None:
        self._endpoints = endpoints
        self._request = request
        self._raw = raw
        self._final_object = answered.final_object
        self._pieces = pieces

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        if _may_be_last(piece) and self._final_object and (response := self._final_object()):
            await self._endpoints.remember(self._request, self._raw, response)
        return piece

    async def aclose(self) -> None:
        await self._pieces.aclose()


_DIALECTS: dict[Endpoint, Dialect] = {
    "openai-chat": Dialect.OPENAI_CHAT,
    "openai-responses": Dialect.OPENAI_RESPONSES,
    "anthropic": Dialect.ANTHROPIC,
    "embeddings": Dialect.OPENAI_CHAT,
}


def parse(body: bytes) -> dict[str, Any]:
    """Raises `MalformedBodyError`."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedBodyError(
            "We could not parse the JSON body of your request.", code="malformed_body", position=exc.pos
        ) from exc
    if not isinstance(raw, dict):
        raise MalformedBodyError("The body must be a JSON object.")
    return raw


def _may_be_last(piece: bytes) -> bool:
    return b"response.completed" in piece or b"response.incomplete" in piece


def _tell_previous(answered: Answered, previous: str, *, is_stream: bool) -> None:
    if answered.pieces is not None:
        answered.pieces = Continued(answered.pieces, previous)
    elif answered.body is not None:
        # What the cache remembers of a stream is a body as well.
        tell = continued_events if is_stream else continued
        answered.body = tell(answered.body, previous)


def _told(body: Mapping[str, Any]) -> Answered:
    return Answered(list(JSON), body=orjson.dumps(body))


def _forwarded(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name, value) for name, value in scope["headers"] if name in _FORWARDED)


def _asking(request: Request, raw: Mapping[str, Any], dialect: Dialect, endpoint: Endpoint) -> Asking:
    return _asking_for(request, Call(dialect, request.body, raw, headers=_forwarded(request.scope)), endpoint)


def _asking_for(request: Request, call: Call, endpoint: Endpoint) -> Asking:
    session = header(request.scope, b"x-aether-session")
    if session is not None and (len(session) > _MAX_SESSION_CHARS or not session.isascii()):
        raise InvalidRequestError("'x-aether-session' is at most 100 ASCII characters.", param="x-aether-session")
    return Asking(
        caller=request.caller,
        call=call,
        endpoint=endpoint,
        request_id=request.request_id,
        started=request.started,
        session_key=session or _conversation_key(call.raw),
        session_id=session,
    )


def _conversation_key(raw: Mapping[str, Any]) -> str | None:
    """What a client says that stays the same over a conversation."""
    for name in ("prompt_cache_key", "safety_identifier", "user"):
        if isinstance(value := raw.get(name), str):
            return value
    metadata = raw.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    return user if isinstance(user, str) else None
