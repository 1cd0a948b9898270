"""What is asked of Anthropic is asked in its words; what it cannot carry is noted or refused."""

from dataclasses import replace
from typing import Any

import pytest

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import InvalidRequestError, OverloadedError, ProviderError
from serve_app.router.dialects.anthropic import AnthropicClient
from serve_app.router.dialects.anthropic_generations import generation
from serve_app.router.dialects.anthropic_provider import AnthropicProvider
from serve_app.router.dialects.canonical import (
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
    Stop,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

HI = Message("user", (Text("Hi"),))
OLD, NEW = "claude-sonnet-4-5", "claude-opus-5"
TOOL = Tool("f", parameters={"properties": {}})


def encode(*messages: Message, **fields: Any) -> Encoded:
    return AnthropicProvider().encode_request(
        Request(**{"model": OLD, "messages": messages or (HI,), "max_output_tokens": 50_000, **fields})
    )


def content_of(*blocks: Block) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    encoded = encode(Message("user", blocks))
    return encoded.body["messages"][0]["content"], encoded.notes


def test_the_least_there_is() -> None:
    assert encode(max_output_tokens=None) == Encoded(
        {
            "model": OLD,
            "max_tokens": 4096,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        }
    )


def test_parameters_find_their_place() -> None:
    encoded = encode(
        tools=(TOOL,), tool_choice=ToolChoice("named", "f"), parallel_tool_calls=False, temperature=0.5, top_k=3,
        stop=("a",), stream=True, end_user="u", service_tier="default",
        format=OutputFormat("json_schema", "n", {"type": "object"}),
    )  # fmt: skip
    assert encoded.notes == ()
    assert {name: value for name, value in encoded.body.items() if name not in {"model", "messages", "max_tokens"}} == {
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "temperature": 0.5,
        "top_k": 3,
        "stop_sequences": ["a"],
        "stream": True,
        "metadata": {"user_id": "u"},
        "service_tier": "standard_only",
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"seed": 1}, "seed"),
        ({"logprobs": 0}, "logprobs"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"service_tier": "flex"}, "service_tier 'flex'"),
        ({"extra": {"logit_bias": {"1": 2}}}, "logit_bias"),
        ({"format": OutputFormat("json")}, "response_format json: Anthropic promises JSON by schema only"),
        ({"stop": (" ",)}, "stop sequences of white space only"),
        ({"temperature": 1.5}, "temperature 1.5 is sent as 1, Anthropic's highest"),
        ({"temperature": 0.5, "top_p": 0.5}, "top_p is not taken beside temperature by this model"),
        ({"temperature": 0.5, "model": NEW}, "temperature is not taken by this model"),
        ({"tool_choice": ToolChoice("required")}, "tool_choice without tools"),
    ],
)
def test_what_cannot_be_carried_is_noted(fields: dict[str, Any], note: str) -> None:
    assert encode(**fields).notes == (note,)


def test_system_messages_go_to_the_front_and_later_ones_to_the_user() -> None:
    rules, style = Message("system", (Text("Be kind."),)), Message("developer", (Text("In French."),))
    encoded = encode(rules, style, HI, Message("assistant", (Text("Ja?"),)), style)
    assert encoded.body["system"] == [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "In French."}]
    assert encoded.body["messages"][-1] == {"role": "user", "content": [{"type": "text", "text": "In French."}]}
    assert encoded.notes == ("a developer message in mid-conversation is sent as the user's",)
    assert encode(rules, HI).body["system"] == "Be kind."


def test_turns_are_merged_and_results_come_first() -> None:
    encoded = encode(
        HI,
        Message("assistant", (Text("a"),)),
        Message("assistant", (ToolCall("t", "f", '{"x":1}'),)),
        Message("user", (Text("b"), ToolResult("t", (Text("r"),)))),
    )
    assert [message["role"] for message in encoded.body["messages"]] == ["user", "assistant", "user"]
    assert encoded.body["messages"][1]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
    ]
    assert encoded.body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "t", "content": "r"},
        {"type": "text", "text": "b"},
    ]


@pytest.mark.parametrize("messages", [(Message("system", (Text("Go."),)),), (Message("assistant", (Text("Yes?"),)),)])
def test_the_user_speaks_first(messages: tuple[Message, ...]) -> None:
    encoded = encode(*messages)
    assert encoded.body["messages"][0] == {"role": "user", "content": [{"type": "text", "text": "Begin."}]}
    assert len(encoded.notes) == 1


def test_nothing_said_is_left_away() -> None:
    assert encode(HI, Message("assistant", (Text(""),)), HI).body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "Hi"}]}
    ]


@pytest.mark.parametrize(
    ("block", "wire"),
    [
        (
            Media("image", "image/png", data="aa"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}},
        ),
        (Media("image", url="https://x"), {"type": "image", "source": {"type": "url", "url": "https://x"}}),
        (
            Media("document", "application/pdf", data="aa", name="a.pdf"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "aa"},
                "title": "a.pdf",
            },
        ),
        (
            Media("document", "text/markdown", data="SGk="),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}},
        ),
        (
            ToolResult("t", (Text("x"), Media("image", "image/png", data="aa")), is_error=True),
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [
                    {"type": "text", "text": "x"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}},
                ],
                "is_error": True,
            },
        ),
        (Thinking("Hm", "s", dialect=Dialect.ANTHROPIC), {"type": "thinking", "thinking": "Hm", "signature": "s"}),
        (Thinking(encrypted="d", dialect=Dialect.ANTHROPIC), {"type": "redacted_thinking", "data": "d"}),
        (Text("x", cache={"type": "ephemeral"}), {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}),
    ],
)
def test_blocks_are_told(block: Block, wire: dict[str, Any]) -> None:
    assert content_of(block) == ([wire], ())


@pytest.mark.parametrize(
    ("block", "note"),
    [
        (Refusal("No."), "messages.0: a refusal is sent as plain text"),
        (Thinking("Hm", "s", dialect=Dialect.GEMINI), "messages.0: thoughts of another model"),
        (Thinking("Hm", dialect=Dialect.ANTHROPIC), "messages.0: thoughts without a signature"),
        (ToolCall("t", "f", "{}", signature="s"), "messages.0: the signature of t"),
        (
            ToolCall("f:0", "f", "{}"),
            "messages.0: the id 'f:0' is sent with the letters Anthropic allows",
        ),
        (
            ToolCall("t", "f", "oops"),
            "messages.0: arguments of t that are no JSON object are sent as the string 'arguments'",
        ),
        (Text("x", ({"url": "u"},), Dialect.OPENAI_CHAT), "messages.0: citations of openai-chat"),
        (Media("image", url="https://x", detail="high"), "messages.0: the detail of an image"),
    ],
)
def test_what_a_block_loses_is_noted(block: Block, note: str) -> None:
    assert content_of(Text("x"), block)[1] == (note,)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (Media("audio", "audio/wav", data="aa"), "no audio"),
        (Media("document", file_id="file-1"), "another vendor's"),
        (Media("image", "image/tiff", data="aa"), "'image/tiff'"),
        (Media("document", "text/plain", data="!"), "not text in base64"),
        (Opaque(Dialect.OPENAI_RESPONSES, {"type": "web_search_call"}), "'web_search_call'"),
    ],
)
def test_what_would_be_missed_is_refused(block: Block, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        content_of(block)


def test_another_vendors_tool_and_many_answers_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="hosted by openai-responses"):
        encode(tools=(Tool("w", hosted=Opaque(Dialect.OPENAI_RESPONSES, {"type": "web_search"})),))
    with pytest.raises(InvalidRequestError, match="'n' must be 1"):
        encode(extra={"n": 2})


# --- thinking -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("claude-opus-4-20250514", (4, 0)),
        ("claude-3-7-sonnet-20250219", (3, 7)),
        ("us.anthropic.claude-opus-4-8-v1:0", (4, 8)),
        ("claude-opus-5", (5, 0)),
        ("anthropic/claude-4.7-opus", (4, 7)),
        ("kimi-k2", (0, 0)),
    ],
)
def test_a_models_generation_is_in_its_name(model: str, version: tuple[int, int]) -> None:
    assert generation(model) == version


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort", "is_noted"),
    [
        (OLD, Reasoning("high"), {"type": "enabled", "budget_tokens": 16384}, None, False),
        (OLD, Reasoning(budget_tokens=60_000), {"type": "enabled", "budget_tokens": 25_000}, None, True),
        (OLD, Reasoning("none"), {"type": "disabled"}, None, False),
        (NEW, Reasoning("minimal"), {"type": "adaptive"}, "low", False),
        (NEW, Reasoning("xhigh", summary="auto"), {"type": "adaptive", "display": "summarized"}, "xhigh", False),
        (NEW, Reasoning(budget_tokens=8000), {"type": "adaptive"}, "medium", True),
        (NEW, Reasoning(is_off=True), {"type": "disabled"}, None, False),
        ("claude-opus-4-6", Reasoning("xhigh"), {"type": "adaptive"}, "high", True),
        ("claude-opus-4-6", Reasoning(budget_tokens=8000), {"type": "enabled", "budget_tokens": 8000}, None, False),
    ],
)
def test_thinking_is_asked_for_as_the_model_takes_it(
    model: str, reasoning: Reasoning, thinking: dict[str, Any], effort: str | None, is_noted: bool
) -> None:
    encoded = encode(model=model, reasoning=reasoning)
    assert encoded.body["thinking"] == thinking
    assert encoded.body.get("output_config", {}).get("effort") == effort
    assert bool(encoded.notes) is is_noted


def test_a_thinking_model_takes_no_temperature() -> None:
    encoded = encode(reasoning=Reasoning("low"), temperature=0.2, top_p=0.99)
    assert "temperature" not in encoded.body
    assert encoded.body["top_p"] == 0.99
    assert encoded.notes == ("temperature 0.2 is not taken while the model thinks",)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_output_tokens": 500},
        {"tools": (TOOL,), "tool_choice": ToolChoice("required")},
        {
            "messages": (
                HI,
                Message("assistant", (ToolCall("t", "f", "{}"),)),
                Message("user", (ToolResult("t", ()),)),
            )
        },
    ],
)
def test_thinking_that_would_be_refused_is_left_away(fields: dict[str, Any]) -> None:
    encoded = encode(reasoning=Reasoning("low"), **fields)
    assert "thinking" not in encoded.body
    assert len(encoded.notes) == 1


# --- there and back -------------------------------------------------------------------------------------------

WHOLE: dict[str, Any] = {
    "model": OLD,
    "max_tokens": 9000,
    "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "search_result", "source": "s", "title": "t", "content": []}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "x", "citations": [{"type": "char_location"}]},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r", "is_error": True}]},
        {"role": "system", "content": [{"type": "text", "text": "Now in French."}]},
    ],
    "tools": [
        {"name": "f", "input_schema": {"type": "object"}, "strict": True, "input_examples": [{"x": 1}]},
        {"type": "web_search_20260318", "name": "web_search"},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
    "output_config": {"format": {"type": "json_schema", "schema": {}}, "task_budget": 7},
    "metadata": {"user_id": "u", "more": 1},
    "service_tier": "standard_only",
    "stop_sequences": ["a"],
    "stream": True,
    "container": "c",
}


def test_a_request_survives_the_way_there_and_back() -> None:
    encoded = AnthropicProvider().encode_request(AnthropicClient().decode_request(WHOLE))
    assert encoded.notes == ()
    assert encoded.body == WHOLE


def test_an_answer_survives_the_way_there_and_back() -> None:
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": OLD, "stop_reason": "pause_turn",
        "stop_sequence": None,
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "text", "text": "x", "citations": [{"type": "char_location"}]},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
        ],
        "usage": {
            "input_tokens": 1, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4}, "service_tier": "priority",
        },
    }  # fmt: skip
    answer = AnthropicProvider().decode_answer(body)
    assert (answer.stop, answer.usage) == (Stop.PAUSE, Usage(6, 9, cached=3, cache_written=2, reasoning=4))
    assert AnthropicClient().encode_answer(answer, Request(OLD, ())) == body


def test_a_refusal_is_explained() -> None:
    body = {"id": "m", "model": OLD, "content": [], "stop_reason": "refusal", "usage": {"input_tokens": 1}}
    answer = AnthropicProvider().decode_answer(body | {"stop_details": {"explanation": "Harm."}})
    assert answer.blocks == (Refusal("Harm."),)


@pytest.mark.parametrize(
    "body", [{}, {"id": "m", "model": "m", "content": 5, "stop_reason": "end_turn", "usage": {}}, {"choices": []}]
)
def test_what_is_not_the_dialect_is_a_providers_error(body: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        AnthropicProvider().decode_answer(body)
    with pytest.raises(OverloadedError):
        AnthropicProvider().decode_answer({"type": "error", "error": {"type": "overloaded_error", "message": "x"}})


def test_notes_are_told_once() -> None:
    refusal = Message("assistant", (Refusal("No."), Refusal("No.")))
    assert len(encode(HI, replace(refusal)).notes) == 1
