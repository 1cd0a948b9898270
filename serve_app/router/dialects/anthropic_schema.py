"""The shape of a Messages body: known fields are checked, unknown ones pass, for bodies are relayed as they came.

Complaints are worded as Anthropic words them: the path, union members included, then what is wrong.
https://platform.claude.com/docs/en/api/messages/create
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from serve_app.core.errors import InvalidRequestError

_OPEN = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)
_HIDDEN = "~"
"""Marks union members that are ours and no part of the path Anthropic tells."""


class _Open(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]  # how pydantic configures a TypedDict


class _Typed(_Open):
    type: str


class _Base64(_Open):
    type: str
    data: str
    media_type: str


class _Url(_Open):
    type: str
    url: str


class _File(_Open):
    type: str
    file_id: str


def _by_type(*known: str) -> Discriminator:
    """Chooses a union's member by `type`; what is no object, or of a kind yet unknown, goes to the catch-all."""
    names = frozenset(known)

    def choose(value: Any) -> str:
        kind = value.get("type") if isinstance(value, Mapping) else None
        return kind if isinstance(kind, str) and kind in names else "~other"

    return Discriminator(choose)


def _by_form(value: Any) -> str:
    return "~string" if isinstance(value, str) else "~list"


class _CacheControl(_Open):
    type: Literal["ephemeral"]
    ttl: NotRequired[Literal["5m", "1h"]]


class _Block(_Open):
    type: str
    cache_control: NotRequired[_CacheControl | None]


class _Text(_Block):
    text: Annotated[str, Field(min_length=1)]
    citations: NotRequired[list[_Typed] | None]


_TextOrOther = Annotated[Annotated[_Text, Tag("text")] | Annotated[_Block, Tag("~other")], _by_type("text")]


class _Content(_Open):
    type: str
    content: Annotated[
        Annotated[str, Tag("~string")] | Annotated[list[_TextOrOther], Tag("~list")], Discriminator(_by_form)
    ]


_Source = Annotated[
    Annotated[_Base64, Tag("base64")]
    | Annotated[_Url, Tag("url")]
    | Annotated[_File, Tag("file")]
    | Annotated[_Base64, Tag("text")]
    | Annotated[_Content, Tag("content")]
    | Annotated[_Typed, Tag("~other")],
    _by_type("base64", "url", "file", "text", "content"),
]


class _Media(_Block):
    source: _Source


class _ToolUse(_Block):
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    input: dict[str, Any]
    caller: NotRequired[_Typed | None]


class _Thinking(_Block):
    thinking: str
    signature: str


class _Redacted(_Block):
    data: str


_ResultBlock = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[_Media, Tag("image")]
    | Annotated[_Media, Tag("document")]
    | Annotated[_Block, Tag("~other")],
    _by_type("text", "image", "document"),
]


class _ToolResult(_Block):
    tool_use_id: str
    content: NotRequired[
        Annotated[Annotated[str, Tag("~string")] | Annotated[list[_ResultBlock], Tag("~list")], Discriminator(_by_form)]
    ]
    is_error: NotRequired[bool | None]


_AnyBlock = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[_Media, Tag("image")]
    | Annotated[_Media, Tag("document")]
    | Annotated[_ToolUse, Tag("tool_use")]
    | Annotated[_ToolResult, Tag("tool_result")]
    | Annotated[_Thinking, Tag("thinking")]
    | Annotated[_Redacted, Tag("redacted_thinking")]
    | Annotated[_Block, Tag("~other")],
    _by_type("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"),
]


class _Message(_Open):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[str, Tag("~string")] | Annotated[list[_AnyBlock], Tag("~list")], Discriminator(_by_form)
    ]


class _Custom(_Open):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    input_schema: dict[str, Any]
    description: NotRequired[str | None]
    strict: NotRequired[bool | None]
    cache_control: NotRequired[_CacheControl | None]


def _by_tool(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    return "custom" if kind is None or kind == "custom" else "~hosted"


_Tool = Annotated[Annotated[_Custom, Tag("custom")] | Annotated[_Typed, Tag("~hosted")], Discriminator(_by_tool)]


class _Choice(_Open):
    type: Literal["auto", "any", "none", "tool"]
    disable_parallel_tool_use: NotRequired[bool]


class _NamedChoice(_Choice):
    name: str


_AnyChoice = Annotated[Annotated[_NamedChoice, Tag("tool")] | Annotated[_Choice, Tag("~other")], _by_type("tool")]


class _Enabled(_Open):
    type: str
    budget_tokens: Annotated[int, Field(ge=1024)]


_ThinkingConfig = Annotated[Annotated[_Enabled, Tag("enabled")] | Annotated[_Typed, Tag("~other")], _by_type("enabled")]


class _Format(_Open):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class _OutputConfig(_Open):
    format: NotRequired[_Format | None]
    effort: NotRequired[str | None]


class _Metadata(_Open):
    user_id: NotRequired[Annotated[str, Field(max_length=512)] | None]


class _CountTokens(_Open):
    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[_Message], Field(min_length=1)]
    system: NotRequired[
        Annotated[Annotated[str, Tag("~string")] | Annotated[list[_Text], Tag("~list")], Discriminator(_by_form)]
    ]
    tools: NotRequired[list[_Tool] | None]
    tool_choice: NotRequired[_AnyChoice | None]
    thinking: NotRequired[_ThinkingConfig | None]
    output_config: NotRequired[_OutputConfig | None]
    output_format: NotRequired[_Format | None]


class _Create(_CountTokens):
    max_tokens: Annotated[int, Field(ge=1)]
    temperature: NotRequired[Annotated[float, Field(ge=0, le=1)] | None]
    top_p: NotRequired[Annotated[float, Field(ge=0, le=1)] | None]
    top_k: NotRequired[Annotated[int, Field(ge=0)] | None]
    stop_sequences: NotRequired[list[str] | None]
    stream: NotRequired[bool | None]
    metadata: NotRequired[_Metadata | None]
    service_tier: NotRequired[str | None]


_CREATE = TypeAdapter(_Create)
_COUNT_TOKENS = TypeAdapter(_CountTokens)

_WORDING = {
    "temperature": "range: 0..1",
    "top_p": "range: 0..1",
    "messages": "at least one message is required",
    "text": "text content blocks must be non-empty",
}
"""What Anthropic says of a value out of bounds where it has words of its own."""
_OUT_OF_BOUNDS = frozenset({"greater_than_equal", "less_than_equal", "too_short", "string_too_short"})


def validate(raw: Mapping[str, Any]) -> None:
    """Check a body for `POST /v1/messages`.

    Raises:
        InvalidRequestError: worded as Anthropic would; `param` is where.
    """
    _check(_CREATE, raw)
    check_tool_results(raw["messages"])


def validate_count_tokens(raw: Mapping[str, Any]) -> None:
    """Check a body for `POST /v1/messages/count_tokens`.

    Raises:
        InvalidRequestError: as `validate` does.
    """
    _check(_COUNT_TOKENS, raw)
    check_tool_results(raw["messages"])


def _check(adapter: TypeAdapter[Any], raw: Mapping[str, Any]) -> None:
    try:
        adapter.validate_python(raw)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        path = [part for part in error["loc"] if not str(part).startswith(_HIDDEN)]
        where = ".".join(str(part) for part in path)
        message = error["msg"]
        if error["type"] in _OUT_OF_BOUNDS and path:
            message = _WORDING.get(str(path[-1]), message)
        raise InvalidRequestError(f"{where}: {message}" if where else message, param=where or None) from exc


def check_tool_results(messages: list[Mapping[str, Any]]) -> None:
    """Every tool call is answered in the user's next turn, and nothing else is.

    Raises:
        InvalidRequestError: naming the ids.
    """
    asked: dict[str, int] = {}
    last = None
    for index, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == "system":
            continue
        if role == "assistant" and last == "user":
            _refuse_unanswered(asked)
            asked = {}
        last = role
        for place, block in enumerate(() if isinstance(content, str) else content):
            if block["type"] == "tool_use":
                asked[block["id"]] = index
            elif block["type"] == "tool_result" and asked.pop(block["tool_use_id"], None) is None:
                where = f"messages.{index}.content.{place}"
                raise InvalidRequestError(
                    f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {block['tool_use_id']}. Each "
                    "`tool_result` block must have a corresponding `tool_use` block in the previous message.",
                    param=where,
                )
    if last == "user":
        _refuse_unanswered(asked)


def _refuse_unanswered(asked: Mapping[str, int]) -> None:
    if asked:
        where = f"messages.{min(asked.values())}"
        raise InvalidRequestError(
            f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(asked)}. "
            "Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
            param=where,
        )
