"""Chat Completions as clients speak it to us: their requests read, answers and streams written.

https://platform.openai.com/docs/api-reference/chat
"""

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.core.clock import Clock, SystemClock
from serve_app.router.dialects.canonical import (
    Answer,
    Block,
    Dialect,
    Media,
    Message,
    Opaque,
    OutputFormat,
    Reasoning,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from serve_app.router.dialects.openai_chat_message import (
    assistant_blocks,
    finish_of,
    image_of,
    left_out,
    split_data_url,
    told_call,
    told_citation,
    told_image,
    told_thoughts,
    told_usage,
)
from serve_app.router.dialects.openai_chat_stream import ChatStreamEncoder
from serve_app.router.dialects.openai_wording import unsupported

Object = Mapping[str, Any]

_AS_IT_IS = (
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "service_tier",
)
_READ = frozenset(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "tools",
        "tool_choice",
        "response_format",
        "reasoning_effort",
        "logprobs",
        "top_logprobs",
        "user",
        "safety_identifier",
        "web_search_options",
    ]
).union(_AS_IT_IS)
_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "store": (False,),
    "modalities": (["text"],),
    "logit_bias": ({},),
}
"""Values that say what is so anyway."""
_READ_OF_MESSAGE = frozenset(
    [
        "role",
        "content",
        "name",
        "tool_call_id",
        "tool_calls",
        "function_call",
        "refusal",
        "annotations",
        "audio",
        "images",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "cache_control",
    ]
)
_PARTS = frozenset(["text", "refusal", "image_url", "input_audio", "file", "thinking"])
_READ_OF_TOOL = frozenset(["type", "function", "cache_control"])
_READ_OF_FUNCTION = frozenset(["name", "description", "parameters", "strict"])
_FORMATS: Mapping[str, Any] = {"text": "text", "json_object": "json", "json_schema": "json_schema"}


class OpenAIChatClient:
    """See `ClientCodec`. The clock dates answers of providers that do not."""

    dialect = Dialect.OPENAI_CHAT

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def decode_request(self, raw: Object) -> Request:
        """See `ClientCodec.decode_request`."""
        _refuse_what_no_other_dialect_has(raw)
        tools, tool_choice = _tools(raw)
        options = raw.get("stream_options") or {}
        logprobs = (raw.get("top_logprobs") or 0) if raw.get("logprobs") else None
        stop = raw.get("stop") or ()
        extra = {name: value for name, value in raw.items() if name not in _READ and _says_something(name, value)}
        if rest := {name: value for name, value in options.items() if name != "include_usage" and value}:
            extra["stream_options"] = rest
        extra |= dict.fromkeys(_unknown_fields(raw), True)
        return Request(
            model=raw["model"],
            messages=tuple(_message(message) for message in raw["messages"]),
            tools=tools,
            tool_choice=tool_choice,
            max_output_tokens=raw.get("max_completion_tokens") or raw.get("max_tokens"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            logprobs=logprobs,
            format=_format(raw.get("response_format")),
            reasoning=_reasoning(raw.get("reasoning_effort")),
            stream=bool(raw.get("stream")),
            wants_usage=bool(options.get("include_usage")),
            end_user=raw.get("safety_identifier") or raw.get("user"),
            dialect=Dialect.OPENAI_CHAT,
            extra=extra,
            **{name: raw[name] for name in _AS_IT_IS if raw.get(name) is not None},
        )

    def encode_answer(self, answer: Answer, request: Request) -> dict[str, Any]:  # noqa: ARG002 - the port's form
        """See `ClientCodec.encode_answer`. What has no place here is named in `x_aether_notes`, there only then."""
        has_refusal = any(isinstance(block, Refusal) for block in answer.blocks)
        finish = finish_of(answer.stop, has_refusal=has_refusal)
        choice = {"index": 0, "message": _told(answer.blocks), "logprobs": None, "finish_reason": finish}
        if answer.stop_sequence is not None:
            choice["stop_reason"] = answer.stop_sequence
        body = {
            "id": answer.id,
            "object": "chat.completion",
            "created": answer.created or self._now(),
            "model": answer.model,
            "choices": [choice],
            "usage": told_usage(answer.usage),
        }
        if answer.service_tier:
            body["service_tier"] = answer.service_tier
        if notes := [note for block in answer.blocks if (note := left_out(block))]:
            body["x_aether_notes"] = notes
        return body

    def stream_encoder(self, request: Request) -> ChatStreamEncoder:
        """See `ClientCodec.stream_encoder`."""
        return ChatStreamEncoder(wants_usage=request.wants_usage, now=self._now())

    def _now(self) -> int:
        return int(self._clock.now().timestamp())


def _says_something(name: str, value: Any) -> bool:
    return value is not None and value not in _DEFAULTS.get(name, ())


def _refuse_what_no_other_dialect_has(raw: Object) -> None:
    """What would change the shape of the answer. (A request is decoded only when its model speaks another dialect.)"""
    if (raw.get("n") or 1) > 1:
        raise unsupported("This model writes one choice per request: 'n' must be 1.", "n")
    if "audio" in (raw.get("modalities") or ()):
        raise unsupported("This model does not speak: 'modalities' must be [\"text\"].", "modalities")
    for name in ("functions", "function_call"):
        if raw.get(name) is not None:
            raise unsupported(f"'{name}' is deprecated and not supported with this model: use 'tools'.", name)


# --- messages -----------------------------------------------------------------------------------------------------


def _message(message: Object) -> Message:
    role = message["role"]
    if role == "assistant":
        return Message("assistant", tuple(assistant_blocks(message)) + _legacy_call(message), message.get("name"))
    if role in {"tool", "function"}:
        result = ToolResult(
            call_id=message.get("tool_call_id") or message["name"],
            content=tuple(block for block in _parts(message["content"]) if isinstance(block, Text | Media)),
            name=message.get("name"),
            cache=message.get("cache_control"),
        )
        return Message("user", (result,))
    return Message(role, tuple(_parts(message["content"])), message.get("name"))


def _legacy_call(message: Object) -> tuple[ToolCall, ...]:
    """Before tools a function had no id: its result names the function, which serves as one."""
    call = message.get("function_call")
    return (ToolCall(call["name"], call["name"], call["arguments"]),) if call else ()


def _parts(content: str | list[Object]) -> Iterator[Block]:
    if isinstance(content, str):
        yield Text(content)
        return
    for part in content:
        yield _part(part)


def _part(part: Object) -> Block:
    cache = part.get("cache_control")
    match part["type"]:
        case "text":
            return Text(part["text"], cache=cache)
        case "image_url":
            return image_of(part["image_url"], cache)
        case "input_audio":
            sound = part["input_audio"]
            return Media("audio", media_type=f"audio/{sound['format']}", data=sound["data"], cache=cache)
        case "file":
            return _file(part["file"], cache)
        case _:
            return Opaque(Dialect.OPENAI_CHAT, part)


def _file(file: Object, cache: Object | None) -> Media:
    media_type, data = split_data_url(file.get("file_data") or "")
    data = data or file.get("file_data")  # some clients send bare base64
    return Media(
        "document",
        media_type=media_type or ("application/pdf" if data else None),
        data=data,
        file_id=file.get("file_id"),
        name=file.get("filename"),
        cache=cache,
    )


def _unknown_fields(raw: Object) -> Iterator[str]:
    """Fields within messages and tools that are not read: their names in `extra` make an encoder note them."""
    for message in raw["messages"]:
        yield from (f"messages.{name}" for name in message if name not in _READ_OF_MESSAGE)
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            known = {"type", "cache_control", part["type"]}
            yield from (f"messages.content.{name}" for name in part if name not in known and part["type"] in _PARTS)
    for tool in raw.get("tools") or ():
        if tool["type"] == "function":
            yield from (f"tools.{name}" for name in tool if name not in _READ_OF_TOOL)
            yield from (f"tools.function.{name}" for name in tool["function"] if name not in _READ_OF_FUNCTION)


# --- parameters ---------------------------------------------------------------------------------------------------


def _tools(raw: Object) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    tools = tuple(_tool(tool) for tool in raw.get("tools") or ())
    if (search := raw.get("web_search_options")) is not None:
        hosted = Opaque(Dialect.OPENAI_CHAT, {"type": "web_search_options", "web_search_options": search})
        tools += (Tool("web_search_options", hosted=hosted),)
    match raw.get("tool_choice"):
        case "auto" | "none" | "required" as mode:
            return tools, ToolChoice(mode)
        case {"type": "allowed_tools", "allowed_tools": allowed}:
            # No other dialect has such a list. Offering only what is on it comes to the same.
            names = {(tool.get("function") or tool.get("custom") or {}).get("name") for tool in allowed["tools"]}
            return tuple(tool for tool in tools if tool.name in names), ToolChoice(allowed["mode"])
        case Mapping() as choice:
            return tools, ToolChoice("named", choice[choice["type"]]["name"])
    return tools, None


def _tool(tool: Object) -> Tool:
    if tool["type"] != "function":
        name = (tool.get(tool["type"]) or {}).get("name") or tool["type"]
        return Tool(name, hosted=Opaque(Dialect.OPENAI_CHAT, tool))
    function = tool["function"]
    return Tool(
        name=function["name"],
        description=function.get("description"),
        parameters=function.get("parameters"),
        strict=function.get("strict"),
        cache=tool.get("cache_control"),
    )


def _format(wanted: Object | None) -> OutputFormat | None:
    if wanted is None:
        return None
    spec = wanted.get("json_schema") or {}
    return OutputFormat(
        kind=_FORMATS[wanted["type"]],
        name=spec.get("name"),
        schema=spec.get("schema"),
        strict=spec.get("strict"),
        description=spec.get("description"),
    )


def _reasoning(effort: str | None) -> Reasoning | None:
    if effort is None:
        return None
    return Reasoning(is_off=True) if effort == "none" else Reasoning(effort=effort)


# --- an answer ----------------------------------------------------------------------------------------------------


def _told(blocks: tuple[Block, ...]) -> dict[str, Any]:
    texts = [block for block in blocks if isinstance(block, Text)]
    refusals = [block.text for block in blocks if isinstance(block, Refusal)]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(text.text for text in texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
        "annotations": list(_annotations(texts)),
        **told_thoughts(block for block in blocks if isinstance(block, Thinking)),
    }
    if images := [told_image(block) for block in blocks if isinstance(block, Media)]:
        message["images"] = images
    if calls := [told for block in blocks if (told := _told_tool_use(block)) is not None]:
        message["tool_calls"] = calls
    return message


def _told_tool_use(block: Block) -> Object | None:
    match block:
        case ToolCall():
            return told_call(block)
        case Opaque(Dialect.OPENAI_CHAT, {"type": "custom"} as custom):
            return custom
        case _:
            return None


def _annotations(texts: list[Text]) -> Iterator[dict[str, Any]]:
    start = 0
    for text in texts:
        end = start + len(text.text)
        for citation in text.citations:
            yield told_citation(citation, start, end)
        start = end
