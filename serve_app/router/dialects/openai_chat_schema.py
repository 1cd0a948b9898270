"""What a Chat Completions or an Embeddings body must look like, and OpenAI's words for what is wrong with one.

https://platform.openai.com/docs/api-reference/chat/create

Only fields known here are checked. Others pass at every level, and so do values of lists that vendors extend (service
tiers, efforts, kinds of parts and tools): a body is relayed byte for byte to providers that may know more than we do.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Required

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from serve_app.router.dialects.openai_wording import missing, refusal, unsupported

Words = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=1)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=64)]
Object = dict[str, Any]


class _ImageUrl(TypedDict, total=False):
    url: Required[str]
    detail: str | None


class _InputAudio(TypedDict, total=False):
    data: Required[str]
    format: Required[str]


class _File(TypedDict, total=False):
    file_data: str | None
    file_id: str | None
    filename: str | None


class _Part(TypedDict, total=False):
    type: Required[str]
    text: str | None
    refusal: str | None
    image_url: _ImageUrl | None
    input_audio: _InputAudio | None
    file: _File | None


class _FunctionCall(TypedDict, total=False):
    name: Required[str]
    arguments: Required[str]


class _CustomCall(TypedDict, total=False):
    name: Required[str]
    input: Required[str]


class _ToolCall(TypedDict, total=False):
    id: Required[str]
    type: Required[Literal["function", "custom"]]
    function: _FunctionCall | None
    custom: _CustomCall | None


class _AudioId(TypedDict, total=False):
    id: Required[str]


class _Message(TypedDict, total=False):
    role: Required[Literal["system", "developer", "user", "assistant", "tool", "function"]]
    content: str | list[_Part] | None
    name: str | None
    tool_call_id: str | None
    tool_calls: list[_ToolCall] | None
    function_call: _FunctionCall | None
    refusal: str | None
    audio: _AudioId | None


class _Function(TypedDict, total=False):
    name: Required[ToolName]
    description: str | None
    parameters: Object | None
    strict: bool | None


class _Grammar(TypedDict, total=False):
    definition: Required[str]
    syntax: Required[Literal["lark", "regex"]]


class _CustomFormat(TypedDict, total=False):
    type: Required[Literal["text", "grammar"]]
    grammar: _Grammar | None


class _Custom(TypedDict, total=False):
    name: Required[ToolName]
    description: str | None
    format: _CustomFormat | None


class _Tool(TypedDict, total=False):
    type: Required[str]
    function: _Function
    custom: _Custom


class _Name(TypedDict, total=False):
    name: Required[str]


class _AllowedTools(TypedDict, total=False):
    mode: Required[Literal["auto", "required"]]
    tools: Required[list[Object]]


class _ToolChoice(TypedDict, total=False):
    type: Required[Literal["function", "custom", "allowed_tools"]]
    function: _Name
    custom: _Name
    allowed_tools: _AllowedTools


class _Schema(TypedDict, total=False):
    name: Required[ToolName]
    schema: Object | None
    description: str | None
    strict: bool | None


class _ResponseFormat(TypedDict, total=False):
    type: Required[Literal["text", "json_object", "json_schema"]]
    json_schema: _Schema | None


class _StreamOptions(TypedDict, total=False):
    include_usage: bool | None
    include_obfuscation: bool | None


class _Audio(TypedDict, total=False):
    format: Required[str]
    voice: Required[str | Object]


class _Prediction(TypedDict, total=False):
    type: Required[Literal["content"]]
    content: Required[str | list[_Part]]


class _WebSearchOptions(TypedDict, total=False):
    search_context_size: str | None
    user_location: Object | None


class _Chat(TypedDict, total=False):
    model: Required[Words]
    messages: Required[Annotated[list[_Message], Field(min_length=1)]]
    stream: bool | None
    stream_options: _StreamOptions | None
    max_tokens: Count | None
    max_completion_tokens: Count | None
    temperature: Annotated[float, Field(ge=0, le=2)] | None
    top_p: Annotated[float, Field(ge=0, le=1)] | None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None
    stop: Words | Annotated[list[Words], Field(max_length=4)] | None
    n: Annotated[int, Field(ge=1, le=128)] | None
    presence_penalty: Penalty | None
    frequency_penalty: Penalty | None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None
    logprobs: bool | None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None
    response_format: _ResponseFormat | None
    tools: Annotated[list[_Tool], Field(min_length=1)] | None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None
    parallel_tool_calls: bool | None
    functions: Annotated[list[_Function], Field(min_length=1, max_length=128)] | None
    function_call: Literal["none", "auto"] | _Name | None
    modalities: list[str] | None
    audio: _Audio | None
    prediction: _Prediction | None
    reasoning_effort: str | None
    verbosity: str | None
    web_search_options: _WebSearchOptions | None
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_options: Object | None
    prompt_cache_retention: str | None
    moderation: Object | None
    metadata: dict[str, str] | None
    service_tier: str | None
    store: bool | None


Tokens = Annotated[list[int], Field(min_length=1, max_length=2048)]


class _Embeddings(TypedDict, total=False):
    model: Required[Words]
    input: Required[Words | Annotated[list[Words | int | Tokens], Field(min_length=1, max_length=2048)]]
    encoding_format: Literal["float", "base64"] | None
    dimensions: Count | None
    user: str | None


_CHAT = TypeAdapter(_Chat)
_EMBEDDINGS = TypeAdapter(_Embeddings)

_ONLY_WITH = {
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
    "function_call": "functions",
    "top_logprobs": "logprobs",
    "stream_options": "stream",
}


_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio", "reasoning_content", "reasoning_details")
_NEEDED_OF_ROLE = {"tool": "tool_call_id", "function": "name"}
_VARIANTS = frozenset(["text", "refusal", "image_url", "input_audio", "file", "function", "custom", "allowed_tools"])
"""Types whose object must have a field of the same name."""


def validate(raw: Mapping[str, Any]) -> None:
    """Check a Chat Completions body.

    Raises:
        InvalidRequestError: in OpenAI's words, with `param` (dotted) and `code` in its details.
    """
    try:
        _CHAT.validate_python(raw, strict=True)
    except ValidationError as exc:
        raise refusal(exc, raw) from exc
    for index, message in enumerate(raw["messages"]):
        _check_message(message, index)
    for index, tool in enumerate(raw.get("tools") or ()):
        _check_variant(tool, "tools", index)
    if isinstance(choice := raw.get("tool_choice"), Mapping):
        _check_variant(choice, "tool_choice")
    wanted = raw.get("response_format")
    if wanted and wanted["type"] == "json_schema" and not wanted.get("json_schema"):
        raise missing("response_format", "json_schema", param="response_format")
    for name, needed in _ONLY_WITH.items():
        if raw.get(name) and raw[name] != "none" and not raw.get(needed):
            raise unsupported(f"'{name}' is only allowed when '{needed}' is specified.", name)


def validate_embeddings(raw: Mapping[str, Any]) -> None:
    """Check an Embeddings body. Raises as `validate` does."""
    try:
        _EMBEDDINGS.validate_python(raw, strict=True)
    except ValidationError as exc:
        raise refusal(exc, raw) from exc


def _check_message(message: Mapping[str, Any], index: int) -> None:
    content, role = message.get("content"), message["role"]
    if isinstance(content, list):
        for at, part in enumerate(content):
            _check_variant(part, "messages", index, "content", at)
    elif content is None and not (role == "assistant" and any(message.get(name) for name in _INSTEAD_OF_CONTENT)):
        raise missing("messages", index, "content")
    if needed := _NEEDED_OF_ROLE.get(role):
        if not message.get(needed):
            raise missing("messages", index, needed)
    elif calls := message.get("tool_calls"):
        for at, call in enumerate(calls):
            _check_variant(call, "messages", index, "tool_calls", at)


def _check_variant(value: Mapping[str, Any], *where: str | int) -> None:
    kind = value["type"]
    if kind in _VARIANTS and value.get(kind) is None:
        raise missing(*where, kind)
