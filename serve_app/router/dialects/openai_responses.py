"""The Responses dialect as clients speak it to us: requests in, whole answers out (streams are beside it)."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from serve_app.core.clock import Clock, SystemClock
from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.canonical import (
    Answer,
    Block,
    Dialect,
    Message,
    Opaque,
    OutputFormat,
    Reasoning,
    Refusal,
    Request,
    Stop,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from serve_app.router.dialects.openai_responses_stream import ResponsesStreamEncoder
from serve_app.router.dialects.openai_responses_wire import (
    Raw,
    decode_content,
    decode_items,
    encode_item,
    encode_signature,
    encode_usage,
    item_id,
    message_item,
    text_part,
)
from serve_app.router.dialects.responses_schema import kind_of

_ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, and what it says where the request said nothing."""

_TRANSLATED = frozenset(
    {
        *("model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens"),
        *("temperature", "top_p", "text", "reasoning", "stream", "service_tier", "include", "top_logprobs"),
        # Done here, whoever answers: storing, and giving back what the caller wanted kept with the response.
        *("store", "previous_response_id", "metadata", "stream_options", "user", "safety_identifier"),
        *("background", "truncation"),
    }
)
_ENCRYPTED, _LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"

_STOPS: dict[Stop, tuple[str, str | None]] = {
    Stop.END: ("completed", None),
    Stop.STOP_SEQUENCE: ("completed", None),
    Stop.TOOL_CALLS: ("completed", None),
    Stop.LENGTH: ("incomplete", "max_output_tokens"),
    Stop.CONTEXT_FULL: ("incomplete", "max_output_tokens"),
    Stop.CONTENT_FILTER: ("incomplete", "content_filter"),
    Stop.REFUSAL: ("incomplete", "content_filter"),
    Stop.PAUSE: ("incomplete", "max_messages"),
}


class ResponsesClient:
    """Requests and answers of `POST /v1/responses`."""

    dialect = Dialect.OPENAI_RESPONSES

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def decode_request(self, raw: Raw) -> Request:
        """`previous_response_id` must have been resolved: here it is only repeated in the answer.

        Raises:
            InvalidRequestError: the request leans on something that OpenAI keeps for the caller.
        """
        for name in ("prompt", "conversation", "background"):
            if raw.get(name):
                raise InvalidRequestError(
                    f"Unsupported parameter: '{name}' is not supported with this model.",
                    param=name,
                    code="unsupported_parameter",
                )
        text, include = raw.get("text") or {}, set(raw.get("include") or ())
        tools, choice = _tools(raw)
        extra = {name: value for name, value in raw.items() if name not in _TRANSLATED and value is not None}
        if rest := sorted(include - {_ENCRYPTED, _LOGPROBS}):
            extra["include"] = rest
        if raw.get("truncation") == "auto":
            extra["truncation"] = "auto"
        if verbosity := text.get("verbosity"):
            extra["verbosity"] = verbosity
        if raw.get("user") and raw.get("safety_identifier"):
            extra["safety_identifier"] = raw["safety_identifier"]
        return Request(
            model=raw["model"],
            messages=tuple(_messages(raw)),
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=raw.get("parallel_tool_calls"),
            max_output_tokens=raw.get("max_output_tokens"),
            temperature=raw.get("temperature"),
            top_p=raw.get("top_p"),
            logprobs=raw.get("top_logprobs") or 0 if _LOGPROBS in include or raw.get("top_logprobs") else None,
            format=_format(text.get("format")),
            reasoning=_reasoning(raw.get("reasoning"), _ENCRYPTED in include),
            stream=bool(raw.get("stream")),
            wants_usage=True,
            end_user=raw.get("user") or raw.get("safety_identifier"),
            service_tier=raw.get("service_tier"),
            dialect=self.dialect,
            extra=extra,
            echo={name: raw[name] for name in _ECHOED if raw.get(name) is not None},
        )

    def encode_answer(self, answer: Answer, request: Request) -> dict[str, Any]:
        response = self._begin(request, answer.model, answer.created)
        finish(response, answer.stop, answer.blocks)
        response |= {
            "output": _output(answer.blocks, response["id"], response["status"]),
            "usage": encode_usage(answer.usage),
            "service_tier": answer.service_tier or response["service_tier"],
        }
        return response

    def stream_encoder(self, request: Request) -> ResponsesStreamEncoder:
        return ResponsesStreamEncoder(lambda model, created: self._begin(request, model, created), finish)

    def _begin(self, request: Request, model: str, created: int) -> dict[str, Any]:
        """A response under way. Its id is ours: providers that number their answers from 1 would collide in the store."""
        response = {
            "id": "resp_" + secrets.token_hex(24),
            "object": "response",
            "created_at": created or int(self._clock.now().timestamp()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model or request.model,
            "output": [],
            "usage": None,
            **_ECHOED,
            **request.echo,
        }
        response["text"] = {"format": {"type": "text"}, **response["text"]}
        response["reasoning"] = {"effort": None, "summary": None, **response["reasoning"]}
        response["tools"] = [
            {"parameters": None, "strict": True, **tool} if tool["type"] == "function" else tool
            for tool in response["tools"]
        ]
        return response


def finish(response: dict[str, Any], stop: Stop, blocks: Iterable[Block]) -> None:
    """Say how a response ended. One that ends in words of refusal is complete; one cut off by a filter is not."""
    status, reason = _STOPS[stop]
    if stop is Stop.REFUSAL and any(isinstance(block, Refusal) for block in blocks):
        status = "completed"
    response["status"] = status
    if status == "incomplete":
        response["incomplete_details"] = {"reason": reason}


def _output(blocks: Iterable[Block], response_id: str, status: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    message: dict[str, Any] | None = None
    for block in blocks:
        if isinstance(block, Text | Refusal):
            if message is None:
                message = message_item(response_id, len(items))
                message["status"] = "completed"
                items.append(message)
            message["content"].append(
                text_part(block.text, block.citations)
                if isinstance(block, Text)
                else {"type": "refusal", "refusal": block.text}
            )
            continue
        message = None
        if isinstance(block, ToolCall) and block.signature:
            items.append(encode_signature(block, item_id("rs", response_id, len(items))))
        items.append(encode_item(block, response_id, len(items)))
    if status == "incomplete" and items and "status" in items[-1]:
        items[-1]["status"] = "incomplete"
    return items


_CALLERS = ("_output", "_response", "_reference")
"""How the types of items end that come from the caller; the other items are a model's."""


# --- requests -------------------------------------------------------------------------------------------------


def _messages(raw: Raw) -> Iterable[Message]:
    """What a model wrote in a row is one message, and so are the results of its calls."""
    if instructions := raw.get("instructions"):
        yield Message("system", (Text(instructions),))
    sent = raw.get("input") or ()
    if isinstance(sent, str):
        yield Message("user", (Text(sent),))
        return
    run: list[Raw] = []
    is_models = False
    for item in sent:
        kind = kind_of(item)
        is_message = kind == "message"
        is_next_models = item["role"] == "assistant" if is_message else not kind.endswith(_CALLERS)
        is_apart = is_message and not is_next_models
        if run and (is_apart or is_next_models is not is_models):
            yield Message("assistant" if is_models else "user", tuple(decode_items(run)))
            run = []
        if is_apart:
            yield Message(item["role"], decode_content(item["content"]))
        else:
            run.append(item)
            is_models = is_next_models
    if run:
        yield Message("assistant" if is_models else "user", tuple(decode_items(run)))


def _tools(raw: Raw) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    tools = tuple(_tool(tool) for tool in raw.get("tools") or ())
    match raw.get("tool_choice"):
        case None:
            return tools, None
        case "auto" | "none" | "required" as mode:
            return tools, ToolChoice(mode)
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(allowed)}:
            # To offer only what is allowed says the same in every dialect.
            names = {tool.get("name", tool.get("type")) for tool in allowed}
            return tuple(tool for tool in tools if tool.name in names), ToolChoice(mode)
        case choice:
            return tools, ToolChoice("named", choice.get("name", choice["type"]))


def _tool(tool: Raw) -> Tool:
    name = tool.get("name", tool["type"])
    if tool["type"] != "function":
        return Tool(name, tool.get("description"), hosted=Opaque(Dialect.OPENAI_RESPONSES, tool))
    return Tool(name, tool.get("description"), tool.get("parameters"), tool.get("strict"))


def _format(wanted: Raw | None) -> OutputFormat | None:
    if wanted is None:
        return None
    match wanted:
        case {"type": "json_schema", "name": name, "schema": schema}:
            return OutputFormat("json_schema", name, schema, wanted.get("strict"), wanted.get("description"))
        case {"type": "json_object"}:
            return OutputFormat("json")
        case {"type": "text"}:
            return OutputFormat("text")
        case _:
            return None


def _reasoning(wanted: Mapping[str, Any] | None, wants_encrypted: bool) -> Reasoning | None:
    if wanted is None:
        return Reasoning(wants_encrypted=True) if wants_encrypted else None
    effort = wanted.get("effort")
    summary = wanted.get("summary") or wanted.get("generate_summary")
    return Reasoning(effort, is_off=effort == "none", summary=summary, wants_encrypted=wants_encrypted)
