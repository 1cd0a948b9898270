"""The Anthropic dialect as clients speak it to us.

https://platform.claude.com/docs/en/api/messages/create
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from serve_app.router.dialects.anthropic_stream import (
    UNCITED,
    AnthropicStreamEncoder,
    encode_citation,
    is_foreign,
    refuse_opaque,
)
from serve_app.router.dialects.anthropic_wire import (
    KNOWN_FIELDS,
    STOP_REASONS,
    TIERS,
    Raw,
    call_signature,
    decode_content,
    encode_arguments,
    encode_usage,
    wrap,
)
from serve_app.router.dialects.base import StreamEncoder
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

_READ = frozenset(
    {
        "model", "messages", "system", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k",
        "stop_sequences", "stream", "service_tier", "metadata", "thinking", "output_config", "output_format",
    }
)  # fmt: skip
_READ_OF_TOOL = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})
_CHOICES: Mapping[str, Any] = {"auto": "auto", "any": "required", "none": "none", "tool": "named"}
_REQUEST_TIERS = {"auto": "auto", "standard_only": "default"}
_TIERS = {tier: name for name, tier in TIERS.items()}


class AnthropicClient:
    dialect = Dialect.ANTHROPIC

    def decode_request(self, raw: Raw) -> Request:
        extra = {name: value for name, value in raw.items() if name not in _READ and value is not None}
        extra |= _surplus_of_blocks(raw["messages"])
        extra |= _surplus_of_tools(raw.get("tools") or ())
        metadata = dict(raw.get("metadata") or {})
        end_user = metadata.pop("user_id", None)
        if metadata:
            extra["metadata"] = metadata
        config = dict(raw.get("output_config") or {})
        wanted = config.pop("format", None) or raw.get("output_format")
        reasoning = _reasoning(raw.get("thinking") or {}, config.pop("effort", None), extra)
        extra |= {f"output_config.{name}": value for name, value in config.items() if value is not None}
        choice = raw.get("tool_choice") or {}
        tier = raw.get("service_tier")
        return Request(
            model=raw["model"],
            messages=(*_system(raw.get("system")), *(_message(message) for message in raw["messages"])),
            tools=tuple(_tool(tool) for tool in raw.get("tools") or ()),
            tool_choice=ToolChoice(_CHOICES[choice["type"]], choice.get("name")) if choice else None,
            parallel_tool_calls=_parallel(choice),
            max_output_tokens=raw.get("max_tokens"),
            temperature=raw.get("temperature"),
            top_p=raw.get("top_p"),
            top_k=raw.get("top_k"),
            stop=tuple(raw.get("stop_sequences") or ()),
            format=OutputFormat("json_schema", schema=wanted["schema"], strict=True) if wanted else None,
            reasoning=reasoning,
            stream=bool(raw.get("stream")),
            wants_usage=bool(raw.get("stream")),
            end_user=end_user,
            service_tier=_REQUEST_TIERS.get(tier, tier) if tier else None,
            dialect=Dialect.ANTHROPIC,
            extra=extra,
        )

    def encode_answer(self, answer: Answer, request: Request) -> dict[str, Any]:  # noqa: ARG002 - the port has it
        """What Anthropic's dialect cannot carry is named in `x_aether_notes`, which is there only then.

        Raises:
            ProviderError: a block of a tool another vendor hosts.
        """
        notes: list[str] = []
        usage = encode_usage(answer.usage)
        if answer.service_tier in _TIERS:
            usage["service_tier"] = _TIERS[answer.service_tier]
        body: dict[str, Any] = {
            "id": answer.id,
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": [wire for block in answer.blocks for wire in _encode(block, notes)],
            "stop_reason": STOP_REASONS[answer.stop],
            "stop_sequence": answer.stop_sequence,
            "usage": usage,
        }
        return body | ({"x_aether_notes": notes} if notes else {})

    def stream_encoder(self, request: Request) -> StreamEncoder:  # noqa: ARG002 - the port has it
        return AnthropicStreamEncoder()


# --- a request ----------------------------------------------------------------------------------------------


def _system(raw: str | list[Raw] | None) -> tuple[Message, ...]:
    return (Message("system", decode_content(raw)),) if raw else ()


def _message(raw: Raw) -> Message:
    content = raw["content"]
    if isinstance(content, str) or raw["role"] != "assistant":
        return Message(raw["role"], decode_content(content))
    signed = dict(found for block in content if (found := call_signature(block)))
    own = [block for block in content if not call_signature(block)]
    return Message("assistant", tuple(_signed(block, signed) for block in decode_content(own)))


def _signed(block: Block, signatures: Mapping[str, str]) -> Block:
    if isinstance(block, ToolCall) and block.id in signatures:
        return replace(block, signature=signatures[block.id])
    return block


def _tool(raw: Raw) -> Tool:
    if raw.get("type") not in {None, "custom"}:
        return Tool(raw.get("name") or raw["type"], hosted=Opaque(Dialect.ANTHROPIC, raw))
    return Tool(
        raw["name"],
        raw.get("description"),
        raw["input_schema"],
        raw.get("strict"),
        cache=raw.get("cache_control"),
    )


def _parallel(choice: Raw) -> bool | None:
    disabled = choice.get("disable_parallel_tool_use")
    return None if disabled is None else not disabled


def _reasoning(thinking: Raw, effort: str | None, extra: dict[str, Any]) -> Reasoning | None:
    """A kind of thinking yet unknown stays in `extra`, so that another dialect notes it."""
    if thinking and thinking["type"] not in {"enabled", "disabled", "adaptive"}:
        extra["thinking"] = thinking
        thinking = {}
    if not thinking and effort is None:
        return None
    kind, is_summarized = thinking.get("type"), thinking.get("display") == "summarized"
    for name in thinking.keys() - {"type", "budget_tokens"}:
        if thinking[name] is not None and not (name == "display" and is_summarized):
            extra[f"thinking.{name}"] = thinking[name]
    return Reasoning(
        effort,
        thinking.get("budget_tokens"),
        is_off=kind == "disabled",
        is_adaptive=kind == "adaptive",
        summary="auto" if is_summarized else None,
    )


def _surplus_of_blocks(messages: list[Raw]) -> dict[str, Any]:
    """Fields of blocks the canonical type has no place for, so that an encoder notes them."""
    surplus: dict[str, Any] = {}
    for message in messages:
        content = message["content"]
        for block in () if isinstance(content, str) else content:
            known = KNOWN_FIELDS.get(block["type"])
            if known is not None and not known.issuperset(block):
                surplus |= {f"messages[].content[].{name}": block[name] for name in block if name not in known}
    return surplus


def _surplus_of_tools(tools: Any) -> dict[str, Any]:
    """By field, then by the tool's name."""
    surplus: dict[str, dict[str, Any]] = {}
    for tool in tools:
        if tool.get("type") in {None, "custom"}:
            for name in tool.keys() - _READ_OF_TOOL:
                surplus.setdefault(f"tools[].{name}", {})[tool["name"]] = tool[name]
    return surplus


# --- an answer ----------------------------------------------------------------------------------------------


def _encode(block: Block, notes: list[str]) -> Iterator[dict[str, Any]]:
    match block:
        case Text(text, citations):
            told = [encode_citation(citation, block, text) for citation in citations]
            if None in told:
                notes.append(UNCITED)
            cited = {"citations": [citation for citation in told if citation]} if any(told) else {}
            yield {"type": "text", "text": text} | cited
        case Refusal(text):
            yield {"type": "text", "text": text}
        case ToolCall():
            yield from _encode_call(block, notes)
        case Thinking(encrypted=str() as data, dialect=Dialect.ANTHROPIC):
            yield {"type": "redacted_thinking", "data": data}
        case Thinking(text, signature):
            signed = wrap(block) if is_foreign(block) else signature or ""
            yield {"type": "thinking", "thinking": text, "signature": signed}
        case Opaque(Dialect.ANTHROPIC, value):
            yield dict(value)
        case Opaque():
            raise refuse_opaque(block)
        case Media() | ToolResult():
            notes.append(f"a block of kind {type(block).__name__} is left out")


def _encode_call(call: ToolCall, notes: list[str]) -> Iterator[dict[str, Any]]:
    if call.signature:
        thought = Thinking(signature=call.signature, dialect=Dialect.GEMINI)
        yield {"type": "thinking", "thinking": "", "signature": wrap(thought, call.id)}
    arguments, is_exact = encode_arguments(call)
    if not is_exact:
        notes.append(f"the arguments of {call.id} are no JSON object: they are the string 'arguments'")
    yield {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}
