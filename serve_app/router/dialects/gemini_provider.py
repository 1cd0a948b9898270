"""Gemini's generateContent as we speak it to Google: requests written, whole answers read.

https://ai.google.dev/api/generate-content
"""

import mimetypes
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

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
    ToolCall,
    ToolChoice,
    ToolResult,
)
from serve_app.router.dialects.gemini_answer import AnswerReader, citations_of, refuse_blocked, stop_of, usage_of
from serve_app.router.dialects.gemini_stream import GeminiStreamDecoder

Object = Mapping[str, Any]

_BEFORE_LEVELS = re.compile(r"(.*/)?gemini-[12]\b")
"""Models that are told how much to think by a budget only. Later ones have levels, and take images in a tool's result."""
_BUDGETS = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}
_DYNAMIC = -1
_CONFIG = {
    "max_output_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}
_TIERS = {"default": "standard", "standard_only": "standard", "flex": "flex", "priority": "priority"}
_MEDIA_TYPES = {"image": "image/jpeg", "document": "application/pdf", "audio": "audio/wav"}
_MAX_STOPS = 5
_NO_SIGNATURE = "skip_thought_signature_validator"
"""What Google has put in the place of a signature for calls its models did not make; without one they are refused.
https://ai.google.dev/gemini-api/docs/thought-signatures#faqs"""


class GeminiProvider:
    """See `ProviderCodec`. The model's name and whether to stream are in the address, not in the body."""

    dialect = Dialect.GEMINI

    def encode_request(self, request: Request) -> Encoded:
        """See `ProviderCodec.encode_request`."""
        return _Writer(request).write()

    def decode_answer(self, body: Object) -> Answer:
        """See `ProviderCodec.decode_answer`. Raises `ContentFilteredError` when the prompt was blocked."""
        reader = AnswerReader(str(body.get("responseId") or ""))
        try:
            refuse_blocked(body)
            candidate = body["candidates"][0]
            parts = (candidate.get("content") or {}).get("parts") or ()
            blocks = [block for part in parts for block in reader.read(part)]
            stop = stop_of(candidate, has_calls=reader.has_calls)
            usage = usage_of(body.get("usageMetadata") or {})
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as exc:
            raise ProviderError("The provider's answer is not one of generateContent.") from exc
        return Answer(
            id=reader.answer_id,
            model=str(body.get("modelVersion") or ""),
            blocks=_cited(blocks, tuple(citations_of(candidate))),
            stop=stop,
            usage=usage,
        )

    def stream_decoder(self) -> GeminiStreamDecoder:
        """See `ProviderCodec.stream_decoder`."""
        return GeminiStreamDecoder()


def _cited(blocks: list[Block], citations: tuple[Object, ...]) -> tuple[Block, ...]:
    """The last text carries them: they come with the answer, not with a part of it."""
    last = max((at for at, block in enumerate(blocks) if isinstance(block, Text)), default=None)
    if citations and last is not None and isinstance(text := blocks[last], Text):
        blocks[last] = Text(text.text, citations, Dialect.GEMINI)
    return tuple(blocks)


class _Writer:
    """Writes one request, collecting notes."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._has_levels = _BEFORE_LEVELS.match(request.model) is None
        self._notes: list[str] = []
        self._names = {
            block.id: block.name for said in request.messages for block in said.blocks if isinstance(block, ToolCall)
        }

    def write(self) -> Encoded:
        request = self._request
        leading = 0
        while leading < len(request.messages) and _is_instruction(request.messages[leading]):
            leading += 1
        body: dict[str, Any] = {"contents": self._contents(request.messages[leading:])}
        if instructions := [self._text(block) for said in request.messages[:leading] for block in said.blocks]:
            body["systemInstruction"] = {"parts": instructions}
        self._write_tools(body)
        if config := self._config():
            body["generationConfig"] = config
        if tier := _TIERS.get(request.service_tier or ""):
            body["serviceTier"] = tier
        elif request.service_tier not in {None, "auto"}:
            self._notes.append("service_tier")
        self._note_the_rest()
        return Encoded(body, tuple(dict.fromkeys(self._notes)))

    # --- contents ---

    def _contents(self, messages: Iterable[Message]) -> list[dict[str, Any]]:
        """Turns alternate: what one side says in several messages is one content."""
        contents: list[dict[str, Any]] = []
        for message in messages:
            role = "model" if message.role == "assistant" else "user"
            if _is_instruction(message):
                self._notes.append(f"a {message.role} message after the first (sent as the user's)")
            if message.name:
                self._notes.append("messages.name")
            parts = [part for block in message.blocks for part in self._parts(block)]
            if role == "model" and self._has_levels:
                _sign(parts)
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"].extend(parts)
            elif parts:
                contents.append({"role": role, "parts": parts})
        return contents

    def _parts(self, block: Block) -> list[dict[str, Any]]:
        match block:
            case Text():
                return [self._text(block)]
            case Refusal(text):
                return [{"text": text}]
            case Thinking(dialect=Dialect.GEMINI):
                return [_thought(block)]
            case Thinking():
                self._notes.append("thinking")
                return []
            case Media():
                return [self._media(block)]
            case ToolCall():
                return [self._call(block)]
            case ToolResult():
                return self._result(block)
            case Opaque(Dialect.GEMINI, value):
                return [dict(value)]
            case Opaque(dialect, value):
                raise _refused(f"a block of type '{value.get('type')}' of the dialect {dialect}")

    def _text(self, block: Block) -> dict[str, Any]:
        if not isinstance(block, Text):
            raise _refused("anything but text in a system message")
        if block.citations:
            self._notes.append("citations")
        return {"text": block.text}

    def _media(self, media: Media) -> dict[str, Any]:
        self._notes.extend(f"{media.kind}.{name}" for name in media.extra)
        if media.detail not in {None, "auto"}:
            self._notes.append("image.detail")
        if media.text is not None:
            return {"text": media.text}
        guessed = mimetypes.guess_type(media.url or media.name or "")[0]
        media_type = media.media_type or guessed or _MEDIA_TYPES[media.kind]
        if media.data is not None:
            return {"inlineData": {"mimeType": media_type, "data": media.data}}
        if media.url is not None:
            return {"fileData": {"mimeType": media_type, "fileUri": media.url}}
        raise _refused(f"{media.kind} by another vendor's file id")

    def _call(self, call: ToolCall) -> dict[str, Any]:
        try:
            arguments = orjson.loads(call.arguments or "{}")
        except orjson.JSONDecodeError:
            arguments = None
        if not isinstance(arguments, dict):
            raise _refused(f"the tool call '{call.id}', whose arguments are not a JSON object")
        part: dict[str, Any] = {"functionCall": {"id": call.id, "name": call.name, "args": arguments}}
        if call.signature:
            part["thoughtSignature"] = call.signature
        return part

    def _result(self, result: ToolResult) -> list[dict[str, Any]]:
        name = result.name or self._names.get(result.call_id)
        if name is None:
            raise _refused(f"the result of '{result.call_id}', a tool call that is not among the messages")
        texts = [block.text for block in result.content if isinstance(block, Text)]
        media = [self._media(block) for block in result.content if isinstance(block, Media)]
        told = {"error" if result.is_error else "output": "\n".join(texts)}
        response: dict[str, Any] = {"id": result.call_id, "name": name, "response": told}
        if media and self._has_levels:
            response["parts"] = media
            media = []
        elif media:
            self._notes.append("tool_result.media (sent beside the result)")
        return [{"functionResponse": response}, *media]

    # --- parameters ---

    def _write_tools(self, body: dict[str, Any]) -> None:
        request, declarations, tools = self._request, [], []
        for tool in request.tools:
            if tool.hosted is None:
                told = {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters}
                declarations.append({name: value for name, value in told.items() if value is not None})
            elif tool.hosted.dialect is Dialect.GEMINI:
                tools.append(dict(tool.hosted.value))
            else:
                raise InvalidRequestError(f"The chosen model's provider has no tool '{tool.name}'.", param="tools")
            if tool.strict:
                self._notes.append("tools.strict")
        if declarations:
            tools.insert(0, {"functionDeclarations": declarations})
        if not tools:
            return
        body["tools"] = tools
        if request.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _tool_choice(request.tool_choice)}
        if request.parallel_tool_calls is False:
            self._notes.append("parallel_tool_calls")

    def _config(self) -> dict[str, Any]:
        request = self._request
        values = {told: getattr(request, name) for name, told in _CONFIG.items()}
        config: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
        if request.stop:
            config["stopSequences"] = list(request.stop[:_MAX_STOPS])
            if len(request.stop) > _MAX_STOPS:
                self._notes.append(f"stop (after the first {_MAX_STOPS})")
        if request.format is not None:
            config |= _format(request.format)
        if request.reasoning is not None:
            config["thinkingConfig"] = self._thinking(request.reasoning)
        return config

    def _thinking(self, reasoning: Reasoning) -> dict[str, Any]:
        effort = reasoning.effort
        if reasoning.is_off:
            if not self._has_levels:
                return {"thinkingBudget": 0}
            self._notes.append("reasoning off (this model thinks the least it can)")
            return {"thinkingLevel": "MINIMAL"}
        told: dict[str, Any] = {"includeThoughts": True}
        if reasoning.budget_tokens is not None:
            return told | {"thinkingBudget": reasoning.budget_tokens}
        if effort is not None:
            if effort not in _LEVELS:
                self._notes.append("reasoning.effort")
            elif self._has_levels:
                told["thinkingLevel"] = _LEVELS[effort]
            else:
                told["thinkingBudget"] = _BUDGETS[effort]
        elif reasoning.is_adaptive and not self._has_levels:
            told["thinkingBudget"] = _DYNAMIC
        return told

    def _note_the_rest(self) -> None:
        request = self._request
        if request.logprobs is not None:
            self._notes.append("logprobs")
        if request.end_user is not None:
            self._notes.append("user")
        self._notes.extend(request.extra)


def _is_instruction(message: Message) -> bool:
    return message.role in {"system", "developer"}


def _refused(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"The chosen model's provider cannot take {what}.", param="messages")


def _thought(thinking: Thinking) -> dict[str, Any]:
    """A signature without words came on a part without words that is no thought, and goes back as one."""
    part: dict[str, Any] = {"text": thinking.text}
    if thinking.text:
        part["thought"] = True
    if thinking.signature:
        part["thoughtSignature"] = thinking.signature
    return part


def _sign(parts: list[dict[str, Any]]) -> None:
    """Of calls made together the first bears the signature."""
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None:
        first.setdefault("thoughtSignature", _NO_SIGNATURE)


def _tool_choice(choice: ToolChoice) -> dict[str, Any]:
    mode: dict[str, Any] = {"mode": _MODES[choice.mode]}
    return mode | {"allowedFunctionNames": [choice.name]} if choice.mode == "named" else mode


def _format(wanted: OutputFormat) -> dict[str, Any]:
    match wanted.kind:
        case "text":
            return {}
        case "json":
            return {"responseMimeType": "application/json"}
        case "json_schema":
            return {"responseMimeType": "application/json", "responseJsonSchema": wanted.schema or {"type": "object"}}
