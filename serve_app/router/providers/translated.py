"""Providers of another dialect than the client's: through the canonical message type and back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import orjson

from serve_app.core.errors import AetherError, InvalidRequestError, ProviderError
from serve_app.core.telemetry import get_logger
from serve_app.router.dialects.base import ClientCodec, ProviderCodec, StreamEncoder
from serve_app.router.dialects.canonical import BlockDelta, Dialect, Ended, Request, Started, StreamEvent
from serve_app.router.providers.base import Call, Provider, Reply, Tally, Target, parsed
from serve_app.router.providers.passage import Passage
from serve_app.router.providers.refusals import raise_for
from serve_app.router.providers.transport import Incoming, Outgoing, Transport
from serve_app.router.sse import events
from serve_app.router.upstream import Bounds
from serve_app.router.wire import ANTHROPIC_VERSION, Headers, path, sign

_JSON = [(b"content-type", b"application/json")]
_SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]


class TranslatedProvider(Provider):
    """Answers a client of any dialect in `clients` by a provider of any in `providers`."""

    def __init__(
        self,
        transport: Transport,
        bounds: Bounds,
        clients: Mapping[Dialect, ClientCodec],
        providers: Mapping[Dialect, ProviderCodec],
    ) -> None:
        self._transport = transport
        self._bounds = bounds
        self._clients = clients
        self._providers = providers

    async def open(self, call: Call, target: Target) -> Reply:
        """See `Provider.open`."""
        dialect = target.dialect
        client, codec = self._clients[call.dialect], self._providers[dialect]
        request = _for(client.decode_request(call.raw), target)
        encoded = codec.encode_request(request)
        incoming = await self._transport.send(
            target,
            Outgoing(
                path(dialect, target.model.upstream_name, is_stream=request.stream),
                orjson.dumps(_adapted(encoded.body, target)),
                _headers(target, dialect),
                request.stream,
            ),
        )
        if not request.stream or incoming.status != 200:
            return await self._whole(client, codec, request, incoming, encoded.notes)
        reader = _Reader(codec, client.stream_encoder(request))
        pieces = await Passage(incoming, reader, self._bounds.event_bytes).begin()
        return Reply(
            headers=_SSE,
            pieces=pieces,
            tally=reader.tally,
            notes=encoded.notes,
            final_object=reader.final_object,
            error_event=reader.error,
        )

    @staticmethod
    async def _whole(
        client: ClientCodec, codec: ProviderCodec, request: Request, incoming: Incoming, notes: tuple[str, ...]
    ) -> Reply:
        try:
            body = await incoming.whole()
        finally:
            incoming.close()
        if incoming.status != 200:
            raise_for(incoming.status, incoming.headers, body, None)
        with _understood():
            answer = codec.decode_answer(parsed(body))
            translated = orjson.dumps(client.encode_answer(answer, request))
        return Reply(headers=_JSON, body=translated, tally=Tally(answer.usage, is_whole=True), notes=notes)


@contextmanager
def _understood() -> Iterator[None]:
    """Codecs check an answer's shape and not every value in it: one of another type fails where it is first used."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as exc:
        get_logger().warning("provider's answer not understood", exc_info=exc)
        raise ProviderError("The provider's answer is not in its dialect.") from exc


class _Reader:
    """Reads a stream in one dialect and writes it in another, a chunk's events at a time."""

    def __init__(self, codec: ProviderCodec, encoder: StreamEncoder) -> None:
        self._decoder = codec.stream_decoder()
        self._encoder = encoder
        self.tally = Tally()
        self.failure: AetherError | None = None

    def take(self, whole: bytes) -> bytes:
        """See `Reader.take`."""
        return self._written(self._decoded(whole))

    def rest(self, rest: bytes) -> bytes:
        """See `Reader.rest`."""
        return self._written(chain(self._decoded(rest), self._ending()))

    def final_object(self) -> Mapping[str, Any] | None:
        """What the encoder has put together, where its dialect has such an object."""
        response: Mapping[str, Any] | None = getattr(self._encoder, "response", None)
        return response

    def error(self, error: AetherError) -> bytes:
        return self._encoder.error(error)

    def _written(self, decoded: Iterator[StreamEvent]) -> bytes:
        out: list[bytes] = []
        try:
            with _understood():
                for event in decoded:
                    out.append(self._encode(event))  # noqa: PERF401 - what there was before an error is kept
        except AetherError as exc:
            if not out:
                raise
            self.failure = exc
        return b"".join(out)

    def _decoded(self, whole: bytes) -> Iterator[StreamEvent]:
        for name, data in events(whole):
            if data != b"[DONE]":
                yield from self._decoder.decode(name, parsed(data))

    def _ending(self) -> Iterator[StreamEvent]:
        """Asked for only when all before has been decoded."""
        yield from self._decoder.end()

    def _encode(self, event: StreamEvent) -> bytes:
        match event:
            case BlockDelta():
                self.tally.events += 1
            case Started(usage=usage) if usage.input:
                self.tally.usage = usage
            case Ended(usage=usage):
                self.tally.usage = usage
                self.tally.is_whole = True
            case _:
                pass
        return self._encoder.encode(event)


def _for(request: Request, target: Target) -> Request:
    """The request with what this model needs to be told and the client need not say."""
    model = target.model
    wanted = request.max_output_tokens
    if wanted is not None and wanted > model.max_output_tokens:
        raise InvalidRequestError(
            f"max_tokens is too large: {wanted}. The model '{model.id}' writes at most {model.max_output_tokens} tokens.",
            param="max_tokens",
            code="invalid_value",
        )
    if wanted is None and target.dialect is Dialect.ANTHROPIC:
        # Anthropic must be told, others let a model write as much as it can.
        request = replace(request, max_output_tokens=model.max_output_tokens)
    return replace(request, model=model.upstream_name)


def _adapted(body: dict[str, Any], target: Target) -> dict[str, Any]:
    """Servers of one dialect differ in little things, which the catalogue knows."""
    if target.dialect is not Dialect.OPENAI_CHAT:
        return body
    provider = target.provider
    if not provider.asks_for_usage:
        body.pop("stream_options", None)
    if provider.limit_field != "max_tokens" and "max_tokens" in body:
        body[provider.limit_field] = body.pop("max_tokens")
    return body


def _headers(target: Target, dialect: Dialect) -> Headers:
    headers: Headers = [("content-type", "application/json")]
    if target.credential.secret is not None:
        headers += sign(dialect, target.credential.secret.get_secret_value())
    if dialect is Dialect.ANTHROPIC:
        headers.append(("anthropic-version", ANTHROPIC_VERSION))
    return [*headers, *target.provider.headers.items()]
