"""Providers that speak the client's own dialect: the request and the answer go through as they are."""

from collections.abc import Mapping
from typing import Any

import orjson

from serve_app.core.errors import AetherError, ProviderError
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.headers import printable
from serve_app.router.providers.base import Call, Provider, Reply, Tally, Target, parsed
from serve_app.router.providers.passage import Passage
from serve_app.router.providers.refusals import raise_for
from serve_app.router.providers.transport import Incoming, Outgoing, Transport
from serve_app.router.splice import with_member, with_new_member
from serve_app.router.sse import events
from serve_app.router.upstream import Bounds
from serve_app.router.wire import (
    ANTHROPIC_VERSION,
    COUNT_TOKENS_PATH,
    EMBEDDINGS_PATH,
    WIRES,
    Headers,
    Wire,
    begins_line,
    later,
    openai_usage,
)

_PASSED_BACK = {
    "openai-processing-ms": b"openai-processing-ms",
    "openai-version": b"openai-version",
    "x-request-id": b"x-provider-request-id",
    "request-id": b"x-provider-request-id",
}
_PATHS = {"embeddings": EMBEDDINGS_PATH, "count_tokens": COUNT_TOKENS_PATH}
_ASK_USAGE = {"include_usage": True}
_MOST_HELD = 64 * 1024


class RelayProvider(Provider):
    """Changes of a request its `model`, and where the tokens would not be told otherwise `stream_options`."""

    def __init__(self, transport: Transport, bounds: Bounds) -> None:
        self._transport = transport
        self._bounds = bounds

    async def open(self, call: Call, target: Target) -> Reply:
        """See `Provider.open`."""
        wire = WIRES[call.dialect]
        path = _PATHS.get(call.kind, wire.path)
        body, keeps_usage = _outgoing(call, target)
        incoming = await self._transport.send(
            target, Outgoing(path, body, _headers(call, target, wire), call.is_stream, call.kind)
        )
        if not call.is_stream or incoming.status != 200:
            return await self._whole(call, wire, incoming)
        if not incoming.headers.get("content-type", "").startswith("text/event-stream"):
            incoming.close()
            raise ProviderError("The provider answered with something that is not a stream.")
        headers = _answer_headers(incoming)
        reader = _Reader(wire, call.dialect, keeps_usage=keeps_usage)
        pieces = await Passage(incoming, reader, self._bounds.event_bytes).begin()
        return Reply(headers=headers, pieces=pieces, tally=reader.tally, final_object=lambda: reader.response)

    async def _whole(self, call: Call, wire: Wire, incoming: Incoming) -> Reply:
        try:
            body = await incoming.whole()
        finally:
            incoming.close()
        if incoming.status != 200:
            raise_for(incoming.status, incoming.headers, body, call.dialect)
        usage_of = openai_usage if call.kind == "embeddings" else wire.usage
        return Reply(headers=_answer_headers(incoming), body=body, tally=Tally(usage_of(parsed(body)), is_whole=True))


class _Reader:
    """Passes events on as they are; their tokens and their end are noticed in passing."""

    def __init__(self, wire: Wire, dialect: Dialect, *, keeps_usage: bool) -> None:
        self._wire = wire
        self._dialect = dialect
        self._keeps_usage = keeps_usage
        self._is_first = True
        self._held = bytearray()
        self.tally = Tally()
        self.failure: AetherError | None = None
        self.response: Mapping[str, Any] | None = None
        """Of a Responses stream that has ended."""

    def take(self, whole: bytes) -> bytes:
        """See `Reader.take`. An error as the very first event is no beginning: it is raised."""
        tally = self.tally
        if self._is_first:
            begin = whole.find(b"data:")
            if begin < 0 and len(self._held) + len(whole) <= _MOST_HELD:
                # Comments keep a connection open while a model waits for its turn: what follows may still be an error.
                self._held += whole
                return b""
            self._is_first = False
            if b'"error"' in whole[begin : begin + 300]:
                _raise_if_error(whole, self._dialect)
            whole = bytes(self._held) + whole
            self._held.clear()
        tally.events += whole.count(b"data:")
        if b'"usage"' in whole:
            whole = self._take_usage(whole)
        self._note_end(whole)
        return whole

    def rest(self, rest: bytes) -> bytes:
        """See `Reader.rest`. Half an event is worth nothing; a last one that only lacks its empty line is."""
        wire = self._wire
        if self.tally.is_whole or not begins_line(rest, (*wire.ends, *wire.stops, *wire.fails)):
            return b""
        return self.take(rest + b"\n\n")

    def _note_end(self, whole: bytes) -> None:
        tally, wire = self.tally, self._wire
        if tally.is_whole:
            return
        tally.has_failed = begins_line(whole, wire.fails)
        tally.is_complete = not begins_line(whole, wire.stops)
        tally.is_whole = tally.has_failed or not tally.is_complete or begins_line(whole, wire.ends)

    def _take_usage(self, whole: bytes) -> bytes:
        """Take the tokens from these events, and out of them the chunk the client did not ask for."""
        for _, data in events(whole):
            if b'"usage"' not in data:
                continue
            try:
                event = orjson.loads(data)
            except orjson.JSONDecodeError:
                # The client gets what the provider said; the tokens are then counted by length.
                continue
            if not isinstance(event, dict):
                continue
            if usage := self._wire.usage(event):
                self.response = event.get("response")
                self.tally.usage = later(self.tally.usage, usage)
                if self._keeps_usage and event.get("choices") == []:
                    whole = _without(whole, data)
        return whole


def _without(whole: bytes, data: bytes) -> bytes:
    """These events without the one whose data this is."""
    start = whole.find(data)
    if start < 0:
        # Written over several lines, which no vendor does: it stays.
        return whole
    before = whole.rfind(b"data:", 0, start)
    after = start + len(data)
    while after < len(whole) and whole[after : after + 1] in b"\r\n":
        after += 1
    return whole[:before] + whole[after:]


def _outgoing(call: Call, target: Target) -> tuple[bytes, bool]:
    """The body for the provider, and whether the chunk that tells the tokens is for us alone."""
    body = call.body
    if call.raw.get("model") != target.model.upstream_name:
        change = with_member if "model" in call.raw else with_new_member
        body = change(body, "model", target.model.upstream_name)
    asks = (
        call.dialect is Dialect.OPENAI_CHAT
        and call.kind == "chat"
        and call.is_stream
        and target.provider.asks_for_usage
        and not _wants_usage(call.raw)
    )
    if asks:
        options: Mapping[str, Any] = call.raw.get("stream_options") or {}
        change = with_member if "stream_options" in call.raw else with_new_member
        body = change(body, "stream_options", {**options, **_ASK_USAGE})
    return body, asks


def _wants_usage(raw: Mapping[str, Any]) -> bool:
    options = raw.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


def _headers(call: Call, target: Target, wire: Wire) -> Headers:
    headers: Headers = [("content-type", "application/json")]
    if target.credential.secret is not None:
        headers += wire.sign(target.credential.secret.get_secret_value())
    given = {name for name, _ in call.headers if name in wire.forwards}
    headers += [(name.decode(), value.decode("latin-1")) for name, value in call.headers if name in wire.forwards]
    if call.dialect is Dialect.ANTHROPIC and b"anthropic-version" not in given:
        headers.append(("anthropic-version", ANTHROPIC_VERSION))
    headers += target.provider.headers.items()
    return headers


def _answer_headers(incoming: Incoming) -> list[tuple[bytes, bytes]]:
    """What of the provider's own headers is the client's business. Its rate limits are ours, not the client's."""
    headers = [(b"content-type", printable(incoming.headers.get("content-type", "application/json")))]
    given = incoming.headers
    headers += [(told, printable(given[name])) for name, told in _PASSED_BACK.items() if name in given]
    return headers


def _raise_if_error(whole: bytes, dialect: Dialect) -> None:
    for _, data in events(whole):
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            continue
        if isinstance(event, dict) and isinstance(event.get("error"), dict):
            raise_for(None, {}, data, dialect)
