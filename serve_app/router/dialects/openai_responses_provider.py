"""The Responses dialect as we speak it to a provider, which keeps nothing: the whole conversation goes along each time."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, assert_never

from serve_app.core.errors import InvalidRequestError, ProviderError
from serve_app.router.dialects.canonical import (
    Answer,
    Block,
    Dialect,
    Encoded,
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
    ToolResult,
)
from serve_app.router.dialects.openai_responses_decoder import ResponsesStreamDecoder, error_of, speaks, stop_of
from serve_app.router.dialects.openai_responses_wire import decode_items, decode_usage

_MIN_OUTPUT_TOKENS = 16
_OPENAI = frozenset({Dialect.OPENAI_CHAT, Dialect.OPENAI_RESPONSES})
_SHARED_EXTRA = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"})
"""What a Chat Completions request says by the same name."""
_SILENT_EXTRA: dict[str, tuple[Any, ...]] = {"n": (1,), "store": (False,), "modalities": (["text"],)}
"""What a Chat Completions request may say that asks for nothing."""
_EFFORT_BY_BUDGET = ((2048, "low"), (8192, "medium"))


class ResponsesProvider:
    """Requests and answers of a provider's `POST /responses`."""

    dialect = Dialect.OPENAI_RESPONSES

    def encode_request(self, request: Request) -> Encoded:
        notes = _Notes()
        body: dict[str, Any] = {
            "model": request.model,
            "input": _Items(request, notes).all(),
            "store": False,
            "stream": request.stream,
        }
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        if choice := request.tool_choice:
            body["tool_choice"] = {"type": "function", "name": choice.name} if choice.mode == "named" else choice.mode
        for name in ("parallel_tool_calls", "temperature", "top_p", "service_tier"):
            if (value := getattr(request, name)) is not None:
                body[name] = value
        if request.end_user is not None:
            body["user"] = request.end_user
        if request.max_output_tokens is not None:
            body["max_output_tokens"] = max(request.max_output_tokens, _MIN_OUTPUT_TOKENS)
            if request.max_output_tokens < _MIN_OUTPUT_TOKENS:
                notes.add(f"max_output_tokens: raised to {_MIN_OUTPUT_TOKENS}, the least there is")
        if request.format:
            body["text"] = {"format": _format(request.format)}
        _reason(body, request, notes)
        for name in ("top_k", "seed", "presence_penalty", "frequency_penalty", "logprobs"):
            if getattr(request, name) is not None:
                notes.add(name)
        if request.stop:
            notes.add("stop")
        _add_extra(body, request, notes)
        return Encoded(body, tuple(notes))

    def decode_answer(self, body: Mapping[str, Any]) -> Answer:
        """Raises also what a failed response tells, as `error_of` has it."""
        with speaks():
            if body.get("status") == "failed" or body.get("error"):
                raise error_of(body.get("error") or {})
            if body["status"] not in {"completed", "incomplete"}:
                raise ProviderError(f"The provider answered with a response that is {body['status']}.")
            blocks = tuple(decode_items(body["output"]))
            return Answer(
                id=body["id"],
                model=body["model"],
                blocks=blocks,
                stop=stop_of(body, blocks),
                usage=decode_usage(body.get("usage")),
                created=int(body.get("created_at") or 0),
                service_tier=body.get("service_tier"),
            )

    def stream_decoder(self) -> ResponsesStreamDecoder:
        return ResponsesStreamDecoder()


class _Notes(list[str]):
    """What cannot be carried, each said once."""

    def add(self, note: str) -> None:
        if note not in self:
            self.append(note)


class _Items:
    """The conversation as input items, in its order. Items go without ids: the provider never kept them, and would look
    for them if they had one."""

    def __init__(self, request: Request, notes: _Notes) -> None:
        self._request = request
        self._notes = notes
        self._items: list[dict[str, Any]] = []
        self._parts: list[dict[str, Any]] = []

    def all(self) -> list[dict[str, Any]]:
        for message in self._request.messages:
            if message.name is not None:
                self._notes.add("messages.name")
            for block in message.blocks:
                self._add(block, message)
            self._close(message)
        return self._items

    def _close(self, message: Message) -> None:
        if self._parts:
            self._items.append({"type": "message", "role": message.role, "content": self._parts})
            self._parts = []

    def _add(self, block: Block, message: Message) -> None:
        is_models = message.role == "assistant"
        match block:
            case Text():
                self._parts.append(self._text(block, is_models))
            case Refusal(text) if is_models:
                self._parts.append({"type": "refusal", "refusal": text})
            case Refusal(text):
                self._parts.append({"type": "input_text", "text": text})
            case Media() if is_models:
                raise _refused("media in a model's own message")
            case Media():
                self._parts.append(self._media(block))
            case _:
                self._close(message)
                if item := self._item(block):
                    self._items.append(item)

    def _item(self, block: ToolCall | ToolResult | Thinking | Opaque) -> dict[str, Any] | None:
        match block:
            case ToolCall():
                if block.signature:
                    self._notes.add("tool call signature")
                return {
                    "type": "function_call",
                    "call_id": block.id,
                    "name": block.name,
                    "arguments": block.arguments,
                }
            case ToolResult():
                if block.is_error:
                    self._notes.add("tool_result.is_error")
                return {"type": "function_call_output", "call_id": block.call_id, "output": self._output(block.content)}
            case Thinking():
                return self._thinking(block)
            case Opaque(Dialect.OPENAI_RESPONSES, value) if value.get("type", "item_reference") != "item_reference":
                return dict(value)
            case Opaque(_, value):
                raise _refused(f"a block of type '{value.get('type', 'item_reference')}'")
            case _:
                assert_never(block)

    def _output(self, content: Sequence[Text | Media]) -> str | list[dict[str, Any]]:
        if len(content) == 1 and isinstance(content[0], Text):
            return content[0].text
        return [self._text(part, False) if isinstance(part, Text) else self._media(part) for part in content]

    def _text(self, block: Text, is_models: bool) -> dict[str, Any]:
        if not is_models:
            return {"type": "input_text", "text": block.text}
        is_ours = block.citation_dialect is Dialect.OPENAI_RESPONSES
        if block.citations and not is_ours:
            self._notes.add("citations")
        return {"type": "output_text", "text": block.text, "annotations": list(block.citations) if is_ours else []}

    def _thinking(self, block: Thinking) -> dict[str, Any] | None:
        encrypted = block.encrypted or block.signature
        if block.dialect is not Dialect.OPENAI_RESPONSES or not encrypted:
            self._notes.add("thinking of another model" if encrypted else "thinking")
            return None
        summary = [{"type": "summary_text", "text": block.text}] if block.text else []
        return {"type": "reasoning", "summary": summary, "encrypted_content": encrypted}

    def _media(self, block: Media) -> dict[str, Any]:
        if block.kind == "audio":
            raise _refused("audio")
        if block.file_id and self._request.dialect not in _OPENAI:
            raise _refused("a file by another vendor's id")
        for name in block.extra:
            self._notes.add(f"{block.kind}.{name}")
        data = block.data
        if data is None and block.text is not None:
            data = base64.b64encode(block.text.encode()).decode()
        default = "text/plain" if block.text is not None else _MEDIA_TYPES[block.kind]
        located = f"data:{block.media_type or default};base64,{data}" if data is not None else None
        if block.kind == "image":
            detail = block.detail or "auto"
            part: dict[str, Any] = {"type": "input_image", "image_url": located or block.url, "detail": detail}
        else:
            # A file is read by the end of its name.
            title = block.name or (f"document.{'pdf' if block.text is None else 'txt'}" if located else None)
            part = {"type": "input_file", "filename": title, "file_data": located, "file_url": block.url}
            part["detail"] = block.detail
        part["file_id"] = block.file_id
        return {name: value for name, value in part.items() if value is not None}


_MEDIA_TYPES = {"image": "image/png", "document": "application/pdf"}


def _refused(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"This model's provider cannot take {what}.", param="messages", code="unsupported_parameter"
    )


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.hosted is None:
        # Here a function is strict unless it says otherwise, which would reject schemas written for other dialects.
        return {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters or {"type": "object", "properties": {}},
            "strict": bool(tool.strict),
        }
    if tool.hosted.dialect is not Dialect.OPENAI_RESPONSES:
        raise InvalidRequestError(
            f"This model's provider does not have the tool '{tool.name}'.", param="tools", code="unsupported_parameter"
        )
    return dict(tool.hosted.value)


def _format(wanted: OutputFormat) -> dict[str, Any]:
    match wanted.kind:
        case "text":
            return {"type": "text"}
        case "json":
            return {"type": "json_object"}
        case "json_schema":
            told = {"description": wanted.description, "strict": wanted.strict}
            return {
                "type": "json_schema",
                "name": wanted.name or "answer",
                "schema": wanted.schema or {},
                **{name: value for name, value in told.items() if value is not None},
            }
        case _:
            assert_never(wanted.kind)


def _reason(body: dict[str, Any], request: Request, notes: _Notes) -> None:
    """Encrypted thoughts are asked for only where the model thinks: others refuse to be asked."""
    wanted = request.reasoning
    has_thoughts = any(item.get("type") == "reasoning" for item in body["input"])
    if has_thoughts or (wanted and (wanted.wants_encrypted or not wanted.is_off)):
        body["include"] = ["reasoning.encrypted_content"]
    if wanted is None:
        return
    told = {"effort": _effort(wanted, notes), "summary": wanted.summary}
    if told := {name: value for name, value in told.items() if value is not None}:
        body["reasoning"] = told


def _effort(wanted: Reasoning, notes: _Notes) -> str | None:
    if wanted.effort is not None:
        return wanted.effort
    if wanted.is_off:
        notes.add("thinking off: left to the model")
        return None
    if wanted.budget_tokens is None:
        return None
    effort = next((name for most, name in _EFFORT_BY_BUDGET if wanted.budget_tokens <= most), "high")
    notes.add(f"thinking budget: as effort {effort}")
    return effort


def _add_extra(body: dict[str, Any], request: Request, notes: _Notes) -> None:
    """Raises `InvalidRequestError` for more than one answer: a response is one."""
    for name, value in _given(request.extra):
        if request.dialect is Dialect.OPENAI_CHAT and value in _SILENT_EXTRA.get(name, ()):
            continue
        if name == "n":
            raise InvalidRequestError(
                "This model's provider writes one answer per request: 'n' must be 1.",
                param="n",
                code="unsupported_parameter",
            )
        if name == "verbosity" and request.dialect in _OPENAI:
            body.setdefault("text", {})["verbosity"] = value
        elif name == "include" and request.dialect is Dialect.OPENAI_RESPONSES:
            body["include"] = [*body.get("include", ()), *value]
        elif request.dialect is Dialect.OPENAI_RESPONSES or (
            request.dialect is Dialect.OPENAI_CHAT and name in _SHARED_EXTRA
        ):
            body[name] = value
        else:
            notes.add(name)


def _given(extra: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((name, value) for name, value in extra.items() if value is not None)
