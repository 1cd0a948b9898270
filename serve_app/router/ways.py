"""How each candidate is reached: relayed where it speaks the client's dialect, else translated; over HTTP or at home."""

from collections.abc import Mapping
from dataclasses import dataclass

from configs.catalog import LOCAL
from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.anthropic import AnthropicClient
from serve_app.router.dialects.anthropic_provider import AnthropicProvider
from serve_app.router.dialects.anthropic_wire import must_be_translated
from serve_app.router.dialects.base import ClientCodec, ProviderCodec
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.dialects.gemini_provider import GeminiProvider
from serve_app.router.dialects.local_limits import check_local
from serve_app.router.dialects.openai_chat import OpenAIChatClient
from serve_app.router.dialects.openai_chat_provider import OpenAIChatProvider
from serve_app.router.dialects.openai_responses import ResponsesClient
from serve_app.router.dialects.openai_responses_provider import ResponsesProvider
from serve_app.router.dialects.openai_responses_wire import has_foreign_thinking
from serve_app.router.providers.base import Call, Provider
from serve_app.router.providers.local import Inference, LocalTransport
from serve_app.router.providers.relay import RelayProvider
from serve_app.router.providers.translated import TranslatedProvider
from serve_app.router.providers.transport import HttpTransport, Transport
from serve_app.router.upstream import Bounds, Upstream
from serve_app.router.view import Candidate

CLIENTS: Mapping[Dialect, ClientCodec] = {
    Dialect.OPENAI_CHAT: OpenAIChatClient(),
    Dialect.OPENAI_RESPONSES: ResponsesClient(),
    Dialect.ANTHROPIC: AnthropicClient(),
}
PROVIDERS: Mapping[Dialect, ProviderCodec] = {
    Dialect.OPENAI_CHAT: OpenAIChatProvider(),
    Dialect.OPENAI_RESPONSES: ResponsesProvider(),
    Dialect.ANTHROPIC: AnthropicProvider(),
    Dialect.GEMINI: GeminiProvider(),
}


@dataclass(frozen=True)
class _Pair:
    relay: Provider
    translate: Provider


class DialectWays:
    """Implements `Ways`."""

    def __init__(self, upstream: Upstream, inference: Inference, bounds: Bounds) -> None:
        self._far = _pair(HttpTransport(upstream), bounds)
        self._home = _pair(LocalTransport(inference, check_local), bounds)

    def to(self, call: Call, candidate: Candidate) -> tuple[Provider, Dialect]:
        """Raises `InvalidRequestError` for what only a dialect the candidate does not speak can say."""
        pair = self._home if candidate.provider.id == LOCAL else self._far
        spoken = dialects_of(candidate)
        if call.kind == "embeddings" or (call.dialect in spoken and not _is_marked(call)):
            return pair.relay, call.dialect
        if call.kind != "chat":
            raise InvalidRequestError(f"The model '{candidate.model.id}' cannot do this.", param="model")
        return pair.translate, spoken[0]


def dialects_of(candidate: Candidate) -> tuple[Dialect, ...]:
    """What this model is spoken to in, the most faithful first."""
    return tuple(Dialect(name) for name in candidate.model.dialects or candidate.provider.dialects)


def _is_marked(call: Call) -> bool:
    """Whether it brings back what we put into an answer for another vendor, which its own vendor would refuse."""
    match call.dialect:
        case Dialect.OPENAI_RESPONSES:
            return has_foreign_thinking(call.raw)
        case Dialect.ANTHROPIC:
            return must_be_translated(call.raw)
        case _:
            return False


def _pair(transport: Transport, bounds: Bounds) -> _Pair:
    return _Pair(RelayProvider(transport, bounds), TranslatedProvider(transport, bounds, CLIENTS, PROVIDERS))
