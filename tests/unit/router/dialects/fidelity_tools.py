"""Tools, thoughts and what else earlier answers left in a conversation: rows of the fidelity table."""

from collections.abc import Mapping
from typing import Any

from serve_app.router.dialects.anthropic_wire import wrap
from serve_app.router.dialects.canonical import Dialect, Thinking
from serve_app.router.dialects.openai_chat_message import detail_of

from .fidelity_bodies import (
    ANTHROPIC,
    CHAT,
    GEMINI,
    HI,
    PNG,
    RESPONSES,
    Body,
    Feature,
    anthropic,
    chat,
    model,
    responses,
    user,
)

_CHAT_CALL = {"id": "call_mark", "type": "function", "function": {"name": "f", "arguments": '{"x":"markarg"}'}}
_RESPONSES_CALL = {"type": "function_call", "call_id": "call_mark", "name": "f", "arguments": '{"x":"markarg"}'}
_ANTHROPIC_CALL = {"type": "tool_use", "id": "call_mark", "name": "f", "input": {"x": "markarg"}}
_PARAMETERS = {"type": "object", "properties": {"markprop": {"type": "string"}}}
_CHAT_TOOL = {"type": "function", "function": {"name": "f", "description": "markdesc", "parameters": _PARAMETERS}}
_RESPONSES_TOOL = {"type": "function", "name": "f", "description": "markdesc", "parameters": _PARAMETERS}
_ANTHROPIC_TOOL = {"name": "f", "description": "markdesc", "input_schema": _PARAMETERS}


def _result(content: Any, **fields: Any) -> Body:
    return {"type": "tool_result", "tool_use_id": "call_mark", "content": content, **fields}


def _tools(**fields: Any) -> Mapping[Dialect, Body]:
    return {
        CHAT: chat(tools=[_CHAT_TOOL], **fields),
        RESPONSES: responses(tools=[_RESPONSES_TOOL], **fields),
        ANTHROPIC: anthropic(tools=[_ANTHROPIC_TOOL], **fields),
    }


def _thought(dialect: Dialect, **fields: Any) -> Mapping[Dialect, Body]:
    """A thought of a model of `dialect`, as clients of each dialect bring it back."""
    thinking = Thinking(dialect=dialect, **fields)
    own = wrap(thinking)
    bodies = {
        CHAT: chat(HI, {"role": "assistant", "content": "x", "reasoning_details": [detail_of(thinking, 0)]}, HI),
        RESPONSES: responses(
            HI,
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": thinking.text}] if thinking.text else [],
                "encrypted_content": thinking.encrypted if dialect is RESPONSES else own,
            },
            {"role": "assistant", "content": "x"},
            HI,
        ),
    }
    if dialect is ANTHROPIC and thinking.encrypted:
        block: Body = {"type": "redacted_thinking", "data": thinking.encrypted}
    else:
        signature = thinking.signature if dialect is ANTHROPIC else own
        block = {"type": "thinking", "thinking": thinking.text, "signature": signature}
    return bodies | {ANTHROPIC: anthropic(HI, model(block, {"type": "text", "text": "x"}), HI)}


def _chose(mode: Mapping[Dialect, Any]) -> Mapping[Dialect, Body]:
    tools = {CHAT: [_CHAT_TOOL], RESPONSES: [_RESPONSES_TOOL], ANTHROPIC: [_ANTHROPIC_TOOL]}
    build = {CHAT: chat, RESPONSES: responses, ANTHROPIC: anthropic}
    return {dialect: build[dialect](tools=tools[dialect], tool_choice=choice) for dialect, choice in mode.items()}


TOOLS = (
    Feature("tool", _tools(), ("markdesc", "markprop")),
    Feature(
        "tool, strict",
        {
            CHAT: chat(tools=[{"type": "function", "function": _CHAT_TOOL["function"] | {"strict": True}}]),  # type: ignore[operator]  # a literal's value is an object to mypy
            RESPONSES: responses(tools=[_RESPONSES_TOOL | {"strict": True}]),
            ANTHROPIC: anthropic(tools=[_ANTHROPIC_TOOL | {"strict": True}]),
        },
        ('"strict":true',),
    ),
    Feature(
        "tool, hosted by the vendor",
        {
            CHAT: chat(web_search_options={}),
            RESPONSES: responses(tools=[{"type": "web_search"}]),
            ANTHROPIC: anthropic(tools=[{"type": "web_search_20260318", "name": "web_search"}]),
        },
    ),
    Feature(
        "tool, examples of its input",
        {ANTHROPIC: anthropic(tools=[_ANTHROPIC_TOOL | {"input_examples": [{"markprop": "markexample"}]}])},
        ("markexample",),
    ),
    Feature(
        "tool choice: any",
        _chose({CHAT: "required", RESPONSES: "required", ANTHROPIC: {"type": "any"}}),
        tests={
            CHAT: lambda body: body["tool_choice"] == "required",
            RESPONSES: lambda body: body["tool_choice"] == "required",
            ANTHROPIC: lambda body: body["tool_choice"] == {"type": "any"},
            GEMINI: lambda body: body["toolConfig"]["functionCallingConfig"]["mode"] == "ANY",
        },
    ),
    Feature(
        "tool choice: one by name",
        _chose(
            {
                CHAT: {"type": "function", "function": {"name": "f"}},
                RESPONSES: {"type": "function", "name": "f"},
                ANTHROPIC: {"type": "tool", "name": "f"},
            }
        ),
        tests={
            CHAT: lambda body: body["tool_choice"]["function"]["name"] == "f",
            RESPONSES: lambda body: body["tool_choice"]["name"] == "f",
            ANTHROPIC: lambda body: body["tool_choice"]["name"] == "f",
            GEMINI: lambda body: body["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == ["f"],
        },
    ),
    Feature(
        "no parallel tool calls",
        {
            **{
                dialect: body for dialect, body in _tools(parallel_tool_calls=False).items() if dialect is not ANTHROPIC
            },
            ANTHROPIC: anthropic(
                tools=[_ANTHROPIC_TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}
            ),
        },
        tests={
            CHAT: lambda body: body["parallel_tool_calls"] is False,
            RESPONSES: lambda body: body["parallel_tool_calls"] is False,
            ANTHROPIC: lambda body: body["tool_choice"]["disable_parallel_tool_use"] is True,
        },
    ),
    Feature(
        "tool call and its result",
        {
            CHAT: chat(
                HI,
                {"role": "assistant", "content": None, "tool_calls": [_CHAT_CALL]},
                {"role": "tool", "tool_call_id": "call_mark", "content": "markresult"},
            ),
            RESPONSES: responses(
                HI,
                _RESPONSES_CALL,
                {"type": "function_call_output", "call_id": "call_mark", "output": "markresult"},
            ),
            ANTHROPIC: anthropic(HI, model(_ANTHROPIC_CALL), user(_result("markresult"))),
        },
        ("call_mark", "markarg", "markresult"),
    ),
    Feature(
        "parallel tool calls",
        {
            CHAT: chat(
                HI,
                {"role": "assistant", "content": None, "tool_calls": [_CHAT_CALL, _CHAT_CALL | {"id": "call_two"}]},
                {"role": "tool", "tool_call_id": "call_mark", "content": "markresult"},
                {"role": "tool", "tool_call_id": "call_two", "content": "markother"},
            ),
            RESPONSES: responses(
                HI,
                _RESPONSES_CALL,
                _RESPONSES_CALL | {"call_id": "call_two"},
                {"type": "function_call_output", "call_id": "call_mark", "output": "markresult"},
                {"type": "function_call_output", "call_id": "call_two", "output": "markother"},
            ),
            ANTHROPIC: anthropic(
                HI,
                model(_ANTHROPIC_CALL, _ANTHROPIC_CALL | {"id": "call_two"}),
                user(_result("markresult"), _result("markother") | {"tool_use_id": "call_two"}),
            ),
        },
        ("call_mark", "call_two", "markresult", "markother"),
    ),
    Feature(
        "tool result with an image",
        {
            RESPONSES: responses(
                HI,
                _RESPONSES_CALL,
                {
                    "type": "function_call_output",
                    "call_id": "call_mark",
                    "output": [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}],
                },
            ),
            ANTHROPIC: anthropic(
                HI,
                model(_ANTHROPIC_CALL),
                user(
                    _result([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}])
                ),
            ),
        },
        (PNG,),
    ),
    Feature(
        "tool result that is an error",
        {ANTHROPIC: anthropic(HI, model(_ANTHROPIC_CALL), user(_result("markresult", is_error=True)))},
        tests={
            ANTHROPIC: lambda body: body["messages"][-1]["content"][0]["is_error"],
            GEMINI: lambda body: "error" in body["contents"][-1]["parts"][0]["functionResponse"]["response"],
        },
    ),
    Feature("Claude's thoughts, signed", _thought(ANTHROPIC, text="markthought", signature="marksig"), ("marksig",)),
    Feature("Claude's thoughts, redacted", _thought(ANTHROPIC, encrypted="markdata"), ("markdata",)),
    Feature("OpenAI's thoughts, encrypted", _thought(RESPONSES, encrypted="markdata"), ("markdata",)),
    Feature("Gemini's thoughts, signed", _thought(GEMINI, text="markthought", signature="marksig"), ("marksig",)),
    Feature(
        "citations of an earlier answer",
        {
            RESPONSES: responses(
                HI,
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [
                        {
                            "type": "output_text",
                            "text": "x",
                            "annotations": [
                                {
                                    "type": "url_citation",
                                    "url": "https://mark.example",
                                    "title": "t",
                                    "start_index": 0,
                                    "end_index": 1,
                                }
                            ],
                        }
                    ],
                },
                HI,
            ),
            ANTHROPIC: anthropic(
                HI,
                model(
                    {
                        "type": "text",
                        "text": "x",
                        "citations": [
                            {
                                "type": "web_search_result_location",
                                "url": "https://mark.example",
                                "title": "t",
                                "cited_text": "x",
                                "encrypted_index": "e",
                            }
                        ],
                    }
                ),
                HI,
            ),
        },
        ("https://mark.example",),
    ),
    Feature(
        "refusal of an earlier answer",
        {
            CHAT: chat(HI, {"role": "assistant", "content": None, "refusal": "markrefusal"}, HI),
            RESPONSES: responses(
                HI,
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "refusal", "refusal": "markrefusal"}],
                },
                HI,
            ),
        },
        ("markrefusal",),
    ),
)
