"""Chat Completions as we speak it to providers: OpenAI, and the many servers that took its dialect over.

Only what practically all of them take is written: they differ in what they refuse beyond it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from serve_app.core.errors import InvalidRequestError, ProviderError
from serve_app.router.dialects.canonical import (
    Answer,
    Dialect,
    Encoded,
    Media,
    Message,
    Opaque,
    OutputFormat,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from serve_app.router.dialects.openai_chat_decoder import ChatStreamDecoder, reported
from serve_app.router.dialects.openai_chat_message import (
    assistant_blocks,
    sequence_of,
    stop_of,
    told_image,
    usage_of,
)

Object = Mapping[str, Any]
LimitField = Literal["max_tokens", "max_completion_tokens"]

_AS_IT_IS = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
_EFFORT_UP_TO = ((2048, "low"), (12_288, "medium"))
"""Budgets of thought told as efforts; more is "high"."""
_SOUNDS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mp3": "mp3", "audio/mpeg": "mp3"}
_TIERS = frozenset({"auto", "default", "flex", "priority"})
_MAX_STOPS = 4


class OpenAIChatProvider:
    """See `ProviderCodec`.

    `limit_field` is `max_completion_tokens` for OpenAI's own reasoning models; every other server knows `max_tokens`.
    """

    dialect = Dialect.OPENAI_CHAT

    def __init__(self, limit_field: LimitField = "max_tokens") -> None:
        self._limit_field = limit_field

    def encode_request(self, request: Request) -> Encoded:
        """See `ProviderCodec.encode_request`."""
        notes: list[str] = []
        body: dict[str, Any] = {"model": request.model}
        body["messages"] = [told for message in request.messages for told in _messages(message, request, notes)]
        for name in _AS_IT_IS:
            if (value := getattr(request, name)) is not None:
                body[name] = value
        if request.max_output_tokens is not None:
            body[self._limit_field] = request.max_output_tokens
        _write_tools(body, request)
        _write_options(body, request, notes)
        if request.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Encoded(body, tuple(dict.fromkeys(notes)))

    def decode_answer(self, body: Object) -> Answer:
        """See `ProviderCodec.decode_answer`."""
        if error := body.get("error"):
            raise reported(error)
        try:
            choice = body["choices"][0]
            if error := choice.get("error"):
                raise reported(error)
            blocks = tuple(assistant_blocks(choice["message"]))
            sequence = sequence_of(choice)
            stop = stop_of(
                choice.get("finish_reason"),
                sequence,
                has_calls=any(isinstance(block, ToolCall) for block in blocks),
                has_refusal=any(isinstance(block, Refusal) for block in blocks),
            )
            return Answer(
                id=body.get("id") or "",
                model=body.get("model") or "",
                blocks=blocks,
                stop=stop,
                usage=usage_of(body.get("usage")),
                stop_sequence=sequence,
                created=int(body.get("created") or 0),
                service_tier=body.get("service_tier"),
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as exc:
            raise ProviderError("The provider's answer is not a chat completion.") from exc

    def stream_decoder(self) -> ChatStreamDecoder:
        """See `ProviderCodec.stream_decoder`."""
        return ChatStreamDecoder()


# --- messages -----------------------------------------------------------------------------------------------------


def _messages(message: Message, request: Request, notes: list[str]) -> Iterator[dict[str, Any]]:
    """One message is several where results of tools stand in it: each of those is a message here."""
    if message.role == "assistant":
        yield _assistant(message, notes)
        return
    results = [block for block in message.blocks if isinstance(block, ToolResult)]
    for result in results:
        yield _result(result, notes)
    others = [block for block in message.blocks if not isinstance(block, ToolResult)]
    # Results hold text only, so what else they had follows as the user's.
    shown = [block for result in results for block in result.content if isinstance(block, Media)]
    parts = [_part(block, request, notes) for block in (*shown, *others)]
    if not parts and results:
        return
    role = "system" if message.role == "developer" else message.role
    told: dict[str, Any] = {"role": role, "content": _slim(parts)}
    yield told | {"name": message.name} if message.name else told


def _slim(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Plain words where they do: not every server takes a list."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts or ""


def _assistant(message: Message, notes: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {"role": "assistant", "content": None}
    for block in message.blocks:
        match block:
            case Text(text, citations):
                told["content"] = (told["content"] or "") + text
                if citations:
                    notes.append("citations")
            case Refusal(text):
                told["refusal"] = told.get("refusal", "") + text
            case Thinking(text, dialect=Dialect.OPENAI_CHAT | None) if text:
                told["reasoning_content"] = told.get("reasoning_content", "") + text
                if block.signature:
                    notes.append("thinking signature")
            case Thinking():
                notes.append("thinking")
            case ToolCall():
                call = {"name": block.name, "arguments": block.arguments}
                told.setdefault("tool_calls", []).append({"id": block.id, "type": "function", "function": call})
                if block.signature:
                    notes.append("thought signature")
            case Opaque(Dialect.OPENAI_CHAT, {"type": "custom"} as custom):
                told.setdefault("tool_calls", []).append(dict(custom))
            case Opaque(Dialect.OPENAI_CHAT, {"type": "audio", "audio": audio}):
                told["audio"] = {"id": audio["id"]}
            case Opaque():
                raise _refused(f"a block of type '{block.value.get('type')}' of the dialect {block.dialect}")
            case Media():
                raise _refused(f"{block.kind} in an assistant's message")
            case ToolResult():
                raise _refused("a tool's result in an assistant's message")
    return told | {"name": message.name} if message.name else told


def _result(result: ToolResult, notes: list[str]) -> dict[str, Any]:
    parts = [{"type": "text", "text": block.text} for block in result.content if isinstance(block, Text)]
    if result.is_error:
        notes.append("tool_result.is_error")
    if len(parts) < len(result.content):
        notes.append("tool_result.media")
    return {"role": "tool", "tool_call_id": result.call_id, "content": _slim(parts)}


def _part(block: object, request: Request, notes: list[str]) -> dict[str, Any]:
    match block:
        case Text(text):
            return {"type": "text", "text": text}
        case Media():
            if block.extra:
                notes.append("document." + ", document.".join(block.extra))
            return _media(block, request)
        case Opaque(Dialect.OPENAI_CHAT, value):
            return dict(value)
        case Opaque(dialect, value):
            raise _refused(f"a block of type '{value.get('type')}' of the dialect {dialect}")
        case _:
            raise _refused(f"a {type(block).__name__} in a user's message")


def _media(media: Media, request: Request) -> dict[str, Any]:
    match media:
        case Media("image", file_id=None):
            return told_image(media)
        case Media("audio", data=str(data), media_type=str(media_type)) if media_type in _SOUNDS:
            return {"type": "input_audio", "input_audio": {"data": data, "format": _SOUNDS[media_type]}}
        case Media("document", text=str(text)):
            return {"type": "text", "text": text}
        case Media("document", data=str(data)):
            media_type = media.media_type or "application/pdf"
            name = media.name or "document." + media_type.rpartition("/")[2]
            return {"type": "file", "file": {"filename": name, "file_data": f"data:{media_type};base64,{data}"}}
        case Media("document", file_id=str(file_id)) if request.dialect in {
            Dialect.OPENAI_CHAT,
            Dialect.OPENAI_RESPONSES,
        }:
            return {"type": "file", "file": {"file_id": file_id}}
        case _:
            how = "by a file id" if media.file_id else f"of type {media.media_type}" if media.data else "by an address"
            raise _refused(f"{media.kind} {how}")


def _refused(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"The chosen model's provider cannot take {what}.", param="messages")


# --- parameters ---------------------------------------------------------------------------------------------------


def _write_tools(body: dict[str, Any], request: Request) -> None:
    tools = []
    for tool in request.tools:
        told = _tool(tool)
        if told["type"] == "web_search_options":
            body["web_search_options"] = told["web_search_options"]
        else:
            tools.append(told)
    if not tools:
        return
    body["tools"] = tools
    if request.tool_choice is not None:
        body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.hosted is not None:
        if tool.hosted.dialect is Dialect.OPENAI_CHAT:
            return dict(tool.hosted.value)
        raise InvalidRequestError(f"The chosen model's provider has no tool '{tool.name}'.", param="tools")
    function = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {
        "type": "function",
        "function": {"name": tool.name, **{name: value for name, value in function.items() if value is not None}},
    }


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "named" else choice.mode


def _write_options(body: dict[str, Any], request: Request, notes: list[str]) -> None:
    if request.stop:
        body["stop"] = list(request.stop[:_MAX_STOPS])
        if len(request.stop) > _MAX_STOPS:
            notes.append(f"stop (after the first {_MAX_STOPS})")
    if request.format is not None:
        body["response_format"] = _format(request.format)
    if request.end_user is not None:
        body["user"] = request.end_user
    if request.service_tier in _TIERS:
        body["service_tier"] = request.service_tier
    elif request.service_tier is not None:
        notes.append("service_tier")
    if request.top_k is not None:
        notes.append("top_k")
    if request.logprobs is not None:
        notes.append("logprobs")
    _write_reasoning(body, request, notes)
    for name, value in request.extra.items():
        # A dotted name is of something within a message, which only a relay carries.
        if request.dialect is Dialect.OPENAI_CHAT and "." not in name:
            body[name] = value
        else:
            notes.append(name)


def _write_reasoning(body: dict[str, Any], request: Request, notes: list[str]) -> None:
    reasoning = request.reasoning
    if reasoning is None:
        return
    if reasoning.is_off:
        body["reasoning_effort"] = "none"
    elif reasoning.effort is not None:
        body["reasoning_effort"] = reasoning.effort
    elif (budget := reasoning.budget_tokens) is not None:
        body["reasoning_effort"] = next((effort for most, effort in _EFFORT_UP_TO if budget <= most), "high")
        notes.append("reasoning budget (told as an effort)")
    if reasoning.summary is not None:
        notes.append("reasoning.summary")
    if reasoning.wants_encrypted:
        notes.append("reasoning.encrypted_content")


def _format(wanted: OutputFormat) -> dict[str, Any]:
    match wanted.kind:
        case "text":
            return {"type": "text"}
        case "json":
            return {"type": "json_object"}
        case "json_schema":
            spec = {"description": wanted.description, "schema": wanted.schema, "strict": wanted.strict}
            named = {"name": wanted.name or "answer"}
            return {
                "type": "json_schema",
                "json_schema": named | {name: value for name, value in spec.items() if value is not None},
            }
