"""The canonical message type: what every dialect is translated to and from, and nothing else.

It is the union of what the dialects can say, not their intersection: ids, signatures, citations, refusals, stop
reasons and token counts of one vendor survive a way through here and back. What a target cannot carry is refused or
noted by its encoder (`Encoded.notes`), never dropped in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from serve_app.core.domain.spending import Usage


class Dialect(StrEnum):
    """A wire format. Two providers that speak the same one need no translation between them."""

    OPENAI_CHAT = "openai-chat"
    OPENAI_RESPONSES = "openai-responses"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


# --- blocks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """`citations` are kept in the words of `citation_dialect`; another dialect notes that it cannot carry them."""

    text: str
    citations: tuple[Mapping[str, Any], ...] = ()
    citation_dialect: Dialect | None = None
    cache: Mapping[str, Any] | None = None
    """Anthropic's `cache_control`, on any block that has it; only a hint elsewhere."""


@dataclass(frozen=True)
class Media:
    """An image, a PDF or another file, or a sound: in place (base64), at an address, or by a provider's file id."""

    kind: Literal["image", "document", "audio"]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    text: str | None = None
    """A plain-text document's words, where the dialect gives them as such."""
    name: str | None = None
    detail: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What only Anthropic's documents have: `context`, `citations`."""
    cache: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ToolCall:
    """`arguments` is the JSON text as the model wrote it, which need not be valid."""

    id: str
    name: str
    arguments: str
    signature: str | None = None
    """Gemini's thought signature, which its next turn must bring back."""
    item_id: str | None = None
    """The id of the Responses item, where it differs from the call's."""
    cache: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ToolResult:
    call_id: str
    content: tuple["Text | Media", ...]
    is_error: bool = False
    name: str | None = None
    """The function's name where the dialect repeats it (Gemini)."""
    cache: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Thinking:
    """What a model thought. `signature` proves it to its own provider; `encrypted` is thought nobody else can read."""

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    item_id: str | None = None
    dialect: Dialect | None = None
    """Whose signature it is: another provider cannot check it, so an encoder for another dialect leaves it away and
    notes it."""


@dataclass(frozen=True)
class Refusal:
    text: str


@dataclass(frozen=True)
class Opaque:
    """A block only `dialect` knows (a hosted tool's call or result, say): goes back there untouched, else is refused."""

    dialect: Dialect
    value: Mapping[str, Any]


Block = Text | Media | ToolCall | ToolResult | Thinking | Refusal | Opaque


@dataclass(frozen=True)
class Message:
    """`system` and `developer` messages may stand anywhere; encoders place them where the target wants them."""

    role: Literal["system", "developer", "user", "assistant"]
    blocks: tuple[Block, ...]
    name: str | None = None


# --- a request ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tool:
    """A function the caller runs. A hosted tool is `hosted`: the vendor's own object, usable in its dialect only."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    hosted: Opaque | None = None
    cache: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ToolChoice:
    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


@dataclass(frozen=True)
class OutputFormat:
    """`json_schema` needs `schema`; `json` promises an object of any shape."""

    kind: Literal["text", "json", "json_schema"]
    name: str | None = None
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


@dataclass(frozen=True)
class Reasoning:
    """How much a model may think. Dialects say it by effort, by a budget of tokens, or leave it to the model."""

    effort: str | None = None
    budget_tokens: int | None = None
    is_off: bool = False
    is_adaptive: bool = False
    summary: str | None = None
    wants_encrypted: bool = False


@dataclass(frozen=True)
class Request:
    """One request to a model, whatever dialect it came in. None means the caller did not say."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    """How many alternatives per token; 0 asks for the chosen token's only."""
    format: OutputFormat | None = None
    reasoning: Reasoning | None = None
    stream: bool = False
    wants_usage: bool = False
    """A streaming Chat Completions client asked for the last usage chunk."""
    end_user: str | None = None
    service_tier: str | None = None
    dialect: Dialect = Dialect.OPENAI_CHAT
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Parameters only `dialect` has, as they came (`n`, `logit_bias`, `metadata`, `truncation`, …)."""
    echo: Mapping[str, Any] = field(default_factory=dict)
    """What the answer repeats of the request in the request's own words (Responses does); nothing for a provider."""


@dataclass(frozen=True)
class Encoded:
    """A request in a provider's words. `notes` names each thing the caller said that it cannot carry."""

    body: dict[str, Any]
    notes: tuple[str, ...] = ()


# --- an answer ----------------------------------------------------------------------------------------------


class Stop(StrEnum):
    """Why a model stopped."""

    END = "end"
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_CALLS = "tool_calls"
    REFUSAL = "refusal"
    CONTENT_FILTER = "content_filter"
    PAUSE = "pause"
    CONTEXT_FULL = "context_full"


@dataclass(frozen=True)
class Answer:
    """A whole answer. `created` is in seconds since 1970; 0 where the dialect does not tell."""

    id: str
    model: str
    blocks: tuple[Block, ...]
    stop: Stop
    usage: Usage
    stop_sequence: str | None = None
    created: int = 0
    service_tier: str | None = None


# --- an answer as it is made --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """First of all. `usage` is what is known by now (Anthropic tells the input's tokens here)."""

    id: str
    model: str
    usage: Usage = field(default_factory=Usage)
    created: int = 0


@dataclass(frozen=True)
class BlockStarted:
    """`block` is the block as far as it is known: empty text, a tool call without arguments, a whole `Opaque`."""

    index: int
    block: Block


@dataclass(frozen=True)
class BlockDelta:
    """More of block `index`: exactly one field is set. `arguments` is a piece of a tool call's JSON text."""

    index: int
    text: str | None = None
    arguments: str | None = None
    thinking: str | None = None
    signature: str | None = None
    refusal: str | None = None
    citation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class BlockEnded:
    index: int


@dataclass(frozen=True)
class Ended:
    """Last of all. Without it a stream was cut off."""

    stop: Stop
    usage: Usage
    stop_sequence: str | None = None


StreamEvent = Started | BlockStarted | BlockDelta | BlockEnded | Ended
