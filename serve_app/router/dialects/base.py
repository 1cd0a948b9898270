"""The ports of a dialect: to and from the canonical type, whole and streamed."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from serve_app.core.errors import AetherError
from serve_app.router.dialects.canonical import Answer, Dialect, Encoded, Request, StreamEvent


class StreamDecoder(Protocol):
    """Turns a provider's stream into canonical events. One instance per stream."""

    def decode(self, event: str | None, data: Mapping[str, Any]) -> Iterable[StreamEvent]:
        """One server-sent event, its `data` parsed; `event` is its name where the dialect gives one.

        Raises:
            AetherError: the provider reported an error in mid-stream, or said something that is not its dialect.
        """
        ...

    def end(self) -> Iterable[StreamEvent]:
        """The provider closed the stream (or sent `[DONE]`): what is still owed. Gives no `Ended` when it was cut off."""
        ...


class StreamEncoder(Protocol):
    """Turns canonical events into a client's stream, as bytes ready to send. One instance per stream."""

    def encode(self, event: StreamEvent) -> bytes: ...

    def error(self, error: AetherError) -> bytes:
        """The dialect's own way to end a stream with an error."""
        ...


class ClientCodec(Protocol):
    """A dialect clients speak to us."""

    dialect: Dialect

    def decode_request(self, raw: Mapping[str, Any]) -> Request:
        """`raw` has been validated. Raises `InvalidRequestError` for what has no meaning in any dialect."""
        ...

    def encode_answer(self, answer: Answer, request: Request) -> dict[str, Any]: ...

    def stream_encoder(self, request: Request) -> StreamEncoder: ...


class ProviderCodec(Protocol):
    """A dialect we speak to providers."""

    dialect: Dialect

    def encode_request(self, request: Request) -> Encoded:
        """`request.model` is the provider's name for the model.

        Raises:
            InvalidRequestError: something essential cannot be carried (a hosted tool, an opaque block, a file by
                another vendor's id), naming it.
        """
        ...

    def decode_answer(self, body: Mapping[str, Any]) -> Answer:
        """Raises `ProviderError` when it is not this dialect."""
        ...

    def stream_decoder(self) -> StreamDecoder: ...
