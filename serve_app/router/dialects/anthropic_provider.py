"""The Anthropic dialect as we speak it to providers.

https://platform.claude.com/docs/en/api/messages/create
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.core.errors import InvalidRequestError, ProviderError
from serve_app.router.dialects.anthropic_generations import sampling_of, thinking_of
from serve_app.router.dialects.anthropic_media import encode_media
from serve_app.router.dialects.anthropic_stream import AnthropicStreamDecoder, decode_error
from serve_app.router.dialects.anthropic_wire import (
    STOPS,
    TIERS,
    Raw,
    decode_content,
    decode_usage,
    encode_arguments,
)
from serve_app.router.dialects.base import StreamDecoder
from serve_app.router.dialects.canonical import (
    Answer,
    Block,
    Dialect,
    Encoded,
    Media,
    Message,
    Opaque,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)

DEFAULT_MAX_TOKENS = 4096

_CHOICES = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}
_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_NOT_OFFERED = ("seed", "presence_penalty", "frequency_penalty", "logprobs")
_BAD_ID = re.compile(r"[^a-zA-Z0-9_-]")
_NOTES_OF_BLOCKS = "messages[].content[]."
_NOTES_OF_TOOLS = "tools[]."


class AnthropicProvider:
    dialect = Dialect.ANTHROPIC

    def encode_request(self, request: Request) -> Encoded:
        encoding = _Encoding(request)
        return Encoded(encoding.body(), tuple(encoding.notes))

    def decode_answer(self, body: Raw) -> Answer:
        if body.get("type") == "error" and isinstance(body.get("error"), Mapping):
            raise decode_error(body["error"])
        try:
            explanation = (body.get("stop_details") or {}).get("explanation")
            return Answer(
                id=body["id"],
                model=body["model"],
                blocks=(*decode_content(body["content"]), *([Refusal(explanation)] if explanation else [])),
                stop=STOPS[body["stop_reason"]],
                usage=decode_usage(body["usage"]),
                stop_sequence=body.get("stop_sequence"),
                service_tier=TIERS.get(body["usage"].get("service_tier")),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as exc:
            raise ProviderError("The provider's answer is not Anthropic's dialect.") from exc

    def stream_decoder(self) -> StreamDecoder:
        return AnthropicStreamDecoder()


class _Encoding:
    """One request on its way; `notes` gathers what cannot be carried, each thing once."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_own = request.dialect is Dialect.ANTHROPIC
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def body(self) -> dict[str, Any]:
        request = self._request
        max_tokens = request.max_output_tokens or DEFAULT_MAX_TOKENS
        body: dict[str, Any] = {"model": request.model, "max_tokens": max_tokens, "messages": self._messages()}
        if system := self._system():
            body["system"] = system
        if request.tools:
            body["tools"] = [self._tool(tool, f"tools.{index}") for index, tool in enumerate(request.tools)]
        if choice := self._tool_choice():
            body["tool_choice"] = choice
        thinking, effort = thinking_of(request, max_tokens, self._note)
        if thinking and thinking["type"] == "enabled" and _resumes_without_thought(body["messages"]):
            self._note("reasoning: the tool calls to go on from came without Claude's thoughts")
            thinking = None
        if thinking:
            body["thinking"] = thinking
        body |= sampling_of(request, bool(thinking) and thinking != {"type": "disabled"}, self._note)
        config = {"effort": effort} if effort else {}
        if config | (wanted := self._format()):
            body["output_config"] = config | wanted
        if stop := self._stop():
            body["stop_sequences"] = stop
        if request.end_user:
            body["metadata"] = {"user_id": request.end_user}
        if request.service_tier in _TIERS:
            body["service_tier"] = _TIERS[request.service_tier]
        elif request.service_tier:
            self._note(f"service_tier {request.service_tier!r}")
        if request.stream:
            body["stream"] = True
        for name in _NOT_OFFERED:
            if getattr(request, name) is not None:
                self._note(name)
        self._extra(body)
        return body

    # --- messages -------------------------------------------------------------------------------------------

    def _system(self) -> str | list[dict[str, Any]]:
        blocks = [
            wire
            for index, message in enumerate(self._request.messages[: self._front()])
            for wire in self._blocks(message, f"messages.{index}")
        ]
        if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
            return str(blocks[0]["text"])
        if any(block["type"] != "text" for block in blocks):
            raise InvalidRequestError("Anthropic takes system messages of text only.", param="messages")
        return blocks

    def _front(self) -> int:
        """How many messages stand before the conversation."""
        messages = self._request.messages
        return next((n for n, message in enumerate(messages) if message.role in {"user", "assistant"}), len(messages))

    def _messages(self) -> list[dict[str, Any]]:
        merged: list[tuple[str, list[dict[str, Any]]]] = []
        for index, message in enumerate(self._request.messages):
            if index < self._front() or not (blocks := list(self._blocks(message, f"messages.{index}"))):
                continue
            role = self._role(message)
            if merged and merged[-1][0] == role:
                merged[-1][1].extend(blocks)
            else:
                merged.append((role, blocks))
        if not merged or merged[0][0] == "assistant":
            self._note("messages: Anthropic's begin with the user, so one that says 'Begin.' was put first")
            merged.insert(0, ("user", [{"type": "text", "text": "Begin."}]))
        # Answers to tool calls must come before anything else the user says.
        return [
            {"role": role, "content": sorted(blocks, key=lambda block: block["type"] != "tool_result")}
            if role == "user"
            else {"role": role, "content": blocks}
            for role, blocks in merged
        ]

    def _role(self, message: Message) -> str:
        if message.role in {"user", "assistant"}:
            return message.role
        if self._is_own:
            return "system"
        self._note(f"a {message.role} message in mid-conversation is sent as the user's")
        return "user"

    def _blocks(self, message: Message, where: str) -> Iterator[dict[str, Any]]:
        if message.name:
            self._note(f"{where}.name")
        for block in message.blocks:
            yield from self._block(block, where)

    def _block(self, block: Block, where: str) -> Iterator[dict[str, Any]]:
        match block:
            case Text("") | Refusal(""):  # says nothing, and is refused there
                return
            case Text():
                yield self._text(block, where)
            case Refusal(text):
                self._note(f"{where}: a refusal is sent as plain text")
                yield {"type": "text", "text": text}
            case Media():
                yield _cached(encode_media(block, where, self._is_own, self._note), block.cache)
            case ToolCall():
                yield self._tool_call(block, where)
            case ToolResult():
                yield self._tool_result(block, where)
            case Thinking():
                yield from self._thinking(block, where)
            case Opaque(Dialect.ANTHROPIC, value):
                yield dict(value)
            case Opaque(dialect, value):
                kind = value.get("type", "unknown")
                raise InvalidRequestError(
                    f"{where}: a {kind!r} block of {dialect} cannot be sent to Anthropic.", param=where
                )

    def _text(self, block: Text, where: str) -> dict[str, Any]:
        wire: dict[str, Any] = {"type": "text", "text": block.text}
        if block.citations and block.citation_dialect is Dialect.ANTHROPIC:
            wire["citations"] = list(block.citations)
        elif block.citations:
            self._note(f"{where}: citations of {block.citation_dialect}")
        return _cached(wire, block.cache)

    def _thinking(self, block: Thinking, where: str) -> Iterator[dict[str, Any]]:
        if block.dialect is not Dialect.ANTHROPIC:
            self._note(f"{where}: thoughts of another model")
        elif block.encrypted:
            yield {"type": "redacted_thinking", "data": block.encrypted}
        elif block.signature:
            yield {"type": "thinking", "thinking": block.text, "signature": block.signature}
        else:
            self._note(f"{where}: thoughts without a signature")

    def _tool_call(self, call: ToolCall, where: str) -> dict[str, Any]:
        arguments, is_exact = encode_arguments(call)
        if not is_exact:
            self._note(f"{where}: arguments of {call.id} that are no JSON object are sent as the string 'arguments'")
        if call.signature:
            self._note(f"{where}: the signature of {call.id}")
        wire = {"type": "tool_use", "id": self._id(call.id, where), "name": call.name, "input": arguments}
        return _cached(wire, call.cache)

    def _tool_result(self, result: ToolResult, where: str) -> dict[str, Any]:
        wire: dict[str, Any] = {"type": "tool_result", "tool_use_id": self._id(result.call_id, where)}
        content = [wire for block in result.content for wire in self._block(block, where)]
        if len(content) == 1 and content[0].keys() == {"type", "text"}:
            wire["content"] = content[0]["text"]
        elif content:
            wire["content"] = content
        if result.is_error:
            wire["is_error"] = True
        return _cached(wire, result.cache)

    def _id(self, call_id: str, where: str) -> str:
        if not _BAD_ID.search(call_id):
            return call_id
        # The same on both sides of a call, so that they still belong together.
        self._note(f"{where}: the id {call_id!r} is sent with the letters Anthropic allows")
        return _BAD_ID.sub("_", call_id)

    # --- parameters -----------------------------------------------------------------------------------------

    def _tool(self, tool: Tool, where: str) -> dict[str, Any]:
        if tool.hosted is not None:
            if tool.hosted.dialect is not Dialect.ANTHROPIC:
                kind = tool.hosted.value.get("type", tool.name)
                raise InvalidRequestError(
                    f"{where}: the tool {kind!r} is hosted by {tool.hosted.dialect} and Anthropic has it not.",
                    param=where,
                )
            return dict(tool.hosted.value)
        wire: dict[str, Any] = {"name": tool.name, "input_schema": {"type": "object", **(tool.parameters or {})}}
        if tool.description is not None:
            wire["description"] = tool.description
        if tool.strict is not None:
            wire["strict"] = tool.strict
        return _cached(wire, tool.cache)

    def _tool_choice(self) -> dict[str, Any] | None:
        request = self._request
        if not request.tools:
            if request.tool_choice and request.tool_choice.mode in {"required", "named"}:
                self._note("tool_choice without tools")
            return None
        choice: dict[str, Any] = {}
        if request.tool_choice:
            choice["type"] = _CHOICES[request.tool_choice.mode]
            if request.tool_choice.name:
                choice["name"] = request.tool_choice.name
        if request.parallel_tool_calls is not None and choice.get("type") != "none":
            choice = {"type": "auto", **choice, "disable_parallel_tool_use": not request.parallel_tool_calls}
        return choice or None

    def _format(self) -> dict[str, Any]:
        wanted = self._request.format
        if wanted is None or wanted.kind == "text":
            return {}
        if wanted.kind == "json":
            self._note("response_format json: Anthropic promises JSON by schema only")
            return {}
        if wanted.description:
            self._note("the response format's description")
        return {"format": {"type": "json_schema", "schema": wanted.schema}}

    def _stop(self) -> list[str]:
        fitting = [sequence for sequence in self._request.stop if sequence.strip()]
        if len(fitting) < len(self._request.stop):
            self._note("stop sequences of white space only")
        return fitting

    def _extra(self, body: dict[str, Any]) -> None:
        """Anthropic's own parameters go back where they came from; another dialect's are noted."""
        extra = self._request.extra
        if extra.get("n") not in {None, 1}:
            raise InvalidRequestError("Anthropic writes one answer per request: 'n' must be 1.", param="n")
        for name, value in extra.items():
            if name.startswith(_NOTES_OF_BLOCKS) or not self._is_own:
                self._note(name)
            elif name.startswith(_NOTES_OF_TOOLS):
                for tool in body.get("tools", ()):
                    if tool["name"] in value:
                        tool[name.removeprefix(_NOTES_OF_TOOLS)] = value[tool["name"]]
            elif "." in name:
                parent, child = name.split(".", 1)
                body.setdefault(parent, {})[child] = value
            elif name == "metadata":
                body["metadata"] = {**value, **body.get("metadata", {})}
            else:
                body[name] = value


def _cached(wire: dict[str, Any], cache: Raw | None) -> dict[str, Any]:
    return wire if cache is None else {**wire, "cache_control": cache}


def _resumes_without_thought(messages: list[dict[str, Any]]) -> bool:
    """With a thinking budget, Anthropic refuses to go on from tool calls whose turn does not begin with a thought."""
    turns = [message["content"] for message in messages if message["role"] == "assistant"]
    return (
        bool(turns)
        and any(block["type"] == "tool_use" for block in turns[-1])
        and turns[-1][0]["type"] not in {"thinking", "redacted_thinking"}
    )
