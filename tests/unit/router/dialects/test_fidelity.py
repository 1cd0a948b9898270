"""What survives a translation: docs/fidelity.md is what the codecs really do.

To write it anew: python -m tests.unit.router.dialects.test_fidelity
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from serve_app.core.errors import InvalidRequestError, ProviderError
from serve_app.router.dialects.anthropic import AnthropicClient
from serve_app.router.dialects.anthropic_provider import AnthropicProvider
from serve_app.router.dialects.anthropic_schema import validate as validate_anthropic
from serve_app.router.dialects.base import ClientCodec, ProviderCodec
from serve_app.router.dialects.canonical import (
    Answer,
    BlockEnded,
    BlockStarted,
    Dialect,
    Ended,
    Request,
    Started,
    StreamEvent,
)
from serve_app.router.dialects.gemini_provider import GeminiProvider
from serve_app.router.dialects.openai_chat import OpenAIChatClient
from serve_app.router.dialects.openai_chat_provider import OpenAIChatProvider
from serve_app.router.dialects.openai_chat_schema import validate as validate_chat
from serve_app.router.dialects.openai_responses import ResponsesClient
from serve_app.router.dialects.openai_responses_provider import ResponsesProvider
from serve_app.router.dialects.responses_schema import validate as validate_responses

from .fidelity_answers import ANSWERS, AnswerFeature
from .fidelity_bodies import Body, Feature, anthropic, chat, responses
from .fidelity_contents import CONTENTS
from .fidelity_parameters import PARAMETERS
from .fidelity_tools import TOOLS

COMMITTED = Path(__file__).parents[4] / "docs" / "fidelity.md"

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
MODELS = {
    Dialect.OPENAI_CHAT: "gpt-5.2",
    Dialect.OPENAI_RESPONSES: "gpt-5.2",
    Dialect.ANTHROPIC: "claude-sonnet-4-5",
    Dialect.GEMINI: "gemini-2.5-pro",
}
VALIDATORS: Mapping[Dialect, Callable[[Mapping[str, Any]], None]] = {
    Dialect.OPENAI_CHAT: validate_chat,
    Dialect.OPENAI_RESPONSES: validate_responses,
    Dialect.ANTHROPIC: validate_anthropic,
}
LEAST = {
    Dialect.OPENAI_CHAT: chat(),
    Dialect.OPENAI_RESPONSES: responses(),
    Dialect.ANTHROPIC: anthropic(),
}
REQUESTS = (*CONTENTS, *TOOLS, *PARAMETERS)

CARRIED, ADAPTED, NOTED, REFUSED, RELAYED, UNSAID, LEFT_OUT = (
    "carried", "adapted", "noted", "refused", "relayed", "·", "left out",
)  # fmt: skip

KNOWN_LOSSES = {
    # Another provider has no such field, and the Responses codec does not look for fields it does not know in a part.
    "a field yet unknown of a block": {Dialect.OPENAI_RESPONSES},
    # A response tells that it is complete, not why.
    "which stop sequence it was": {Dialect.ANTHROPIC},
}
"""By feature: the dialects it is lost from without a word."""


# --- requests -----------------------------------------------------------------------------------------------


def fate_of_request(feature: Feature, source: Dialect, target: Dialect) -> str:
    raw = feature.bodies.get(source)
    if raw is None:
        return UNSAID
    if source is target:
        return RELAYED
    try:
        request = CLIENTS[source].decode_request(raw)
        encoded = PROVIDERS[target].encode_request(replace(request, model=MODELS[target]))
    except InvalidRequestError:
        return REFUSED
    is_there = _is_there(feature.tests.get(target), feature.marks, encoded.body)
    if is_there:
        return ADAPTED if encoded.notes else CARRIED
    return NOTED if encoded.notes else LEFT_OUT


def _is_there(test: Callable[[Body], bool] | None, marks: tuple[str, ...], body: Body) -> bool:
    if test is not None:
        try:
            return bool(test(body))
        except (KeyError, IndexError, TypeError):
            return False
    told = orjson.dumps(body).decode()
    return bool(marks) and all(mark in told for mark in marks)


# --- answers ------------------------------------------------------------------------------------------------


def fate_of_answer(feature: AnswerFeature, source: Dialect, target: Dialect) -> str:
    raw = feature.bodies.get(source)
    if raw is None:
        return UNSAID
    if source is target:
        return RELAYED
    client, request = CLIENTS[target], CLIENTS[target].decode_request(LEAST[target])
    try:
        answer = PROVIDERS[source].decode_answer(raw)
        body = client.encode_answer(answer, request)
        stream = _streamed(client, request, answer)
    except ProviderError:
        return REFUSED
    if feature.comes_back is not None:
        blocks = [block for message in _returned(target, body).messages for block in message.blocks]
        return CARRIED if any(feature.comes_back(block) for block in blocks) else LEFT_OUT
    is_there = _is_there(feature.tests.get(target), feature.marks, body)
    if is_there and all(mark in stream for mark in feature.marks):
        return CARRIED
    return NOTED if "x_aether_notes" in body and "\n: " in f"\n{stream}" else LEFT_OUT


def _streamed(client: ClientCodec, request: Request, answer: Answer) -> str:
    encoder = client.stream_encoder(replace(request, stream=True, wants_usage=True))
    return b"".join(encoder.encode(event) for event in _events(answer)).decode()


def _events(answer: Answer) -> Iterator[StreamEvent]:
    yield Started(answer.id, answer.model)
    for index, block in enumerate(answer.blocks):
        yield from (BlockStarted(index, block), BlockEnded(index))
    yield Ended(answer.stop, answer.usage, answer.stop_sequence)


def _returned(dialect: Dialect, body: Body) -> Request:
    """The client's next request, which brings the answer back."""
    match dialect:
        case Dialect.OPENAI_CHAT:
            raw = chat({"role": "user", "content": "Hi"}, body["choices"][0]["message"])
        case Dialect.OPENAI_RESPONSES:
            raw = responses({"role": "user", "content": "Hi"}, *body["output"])
        case _:
            raw = anthropic({"role": "user", "content": "Hi"}, {"role": "assistant", "content": body["content"]})
    VALIDATORS[dialect](raw)
    return CLIENTS[dialect].decode_request(raw)


# --- the page -----------------------------------------------------------------------------------------------

_HEAD = """\
# What survives a translation

A request that comes in the dialect its provider speaks is relayed byte for byte, and so is its answer. Any other goes
through the canonical message type, and this is what becomes of what it says:

- **carried**: the other side gets it, in its own words;
- **adapted**: it gets it changed, and the note on the answer says how;
- **noted**: the other side has no words for it, and the note on the answer says so;
- **refused**: the answer would not be what was asked for, so there is none, and the error names the reason;
- **left out**: the other side has no words for it, and no place to say so;
- **relayed**: nothing is translated;
- ·: this dialect cannot say it.

Written by `tests/unit/router/dialects/test_fidelity.py`, which runs the codecs; the models asked are {models}.
Newer Claudes take no sampling parameters and no budget of thought: there these are noted, or adapted.
"""


def page() -> str:
    models = ", ".join(sorted({f"`{model}`" for model in MODELS.values()}))
    parts = [_HEAD.format(models=models)]
    for source in CLIENTS:
        rows = ((feature.name, [fate_of_request(feature, source, to) for to in PROVIDERS]) for feature in REQUESTS)
        parts.append(_table(f"Requests in {source}", "what is said", "to", PROVIDERS, rows))
    for source in PROVIDERS:
        rows = ((feature.name, [fate_of_answer(feature, source, to) for to in CLIENTS]) for feature in ANSWERS)
        parts.append(_table(f"Answers of a provider that speaks {source}", "what is said", "to", CLIENTS, rows))
    return "\n".join(parts)


def _table(title: str, first: str, to: str, targets: Iterable[Dialect], rows: Iterable[tuple[str, list[str]]]) -> str:
    head = [first, *(f"{to} {target}" for target in targets)]
    lines = [f"## {title}", "", _row(head), _row(["---"] * len(head))]
    lines += [_row([name, *fates]) for name, fates in rows if set(fates) != {UNSAID}]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# --- tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", REQUESTS, ids=lambda feature: feature.name)
def test_every_row_is_a_body_its_dialect_takes(feature: Feature) -> None:
    for dialect, raw in feature.bodies.items():
        VALIDATORS[dialect](raw)


@pytest.mark.parametrize("dialect", CLIENTS)
@pytest.mark.parametrize("target", PROVIDERS)
def test_the_least_there_is_has_nothing_to_note(dialect: Dialect, target: Dialect) -> None:
    request = replace(CLIENTS[dialect].decode_request(LEAST[dialect]), model=MODELS[target])
    assert PROVIDERS[target].encode_request(request).notes == ()


@pytest.mark.parametrize("feature", REQUESTS, ids=lambda feature: feature.name)
def test_nothing_said_in_a_request_is_lost_in_silence(feature: Feature) -> None:
    lost = {source for source in CLIENTS for to in PROVIDERS if fate_of_request(feature, source, to) == LEFT_OUT}
    assert lost <= KNOWN_LOSSES.get(feature.name, set())


@pytest.mark.parametrize("feature", ANSWERS, ids=lambda feature: feature.name)
def test_nothing_said_in_an_answer_is_lost_in_silence(feature: AnswerFeature) -> None:
    lost = {source for source in PROVIDERS for to in CLIENTS if fate_of_answer(feature, source, to) == LEFT_OUT}
    assert lost <= KNOWN_LOSSES.get(feature.name, set())


def test_the_committed_table_is_current() -> None:
    assert COMMITTED.read_text() == page(), (
        "the codecs changed; run: .venv/bin/python -m tests.unit.router.dialects.test_fidelity"
    )


if __name__ == "__main__":
    COMMITTED.write_text(page())
