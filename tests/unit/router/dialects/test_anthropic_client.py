"""What Anthropic's clients ask is read whole, and answers are told in their words."""

import base64
from typing import Any

import pytest
from anthropic.types import Message as AnthropicMessage

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import ProviderError
from serve_app.router.dialects.anthropic import AnthropicClient
from serve_app.router.dialects.anthropic_wire import must_be_translated
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
    Stop,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

CACHE = {"type": "ephemeral"}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}


def request_of(**fields: Any) -> Request:
    return AnthropicClient().decode_request({"model": "m", "max_tokens": 9, "messages": [], **fields})


def blocks_of(*content: dict[str, Any], role: str = "user") -> tuple[Block, ...]:
    return request_of(messages=[{"role": role, "content": list(content)}]).messages[0].blocks


def test_parameters_find_their_place() -> None:
    request = request_of(
        temperature=0.5, top_p=0.9, top_k=5, stop_sequences=["a"], stream=True, service_tier="standard_only",
        metadata={"user_id": "u"}, tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    )  # fmt: skip
    assert request == Request(
        model="m", messages=(), max_output_tokens=9, temperature=0.5, top_p=0.9, top_k=5, stop=("a",), stream=True,
        wants_usage=True, service_tier="default", end_user="u", tool_choice=ToolChoice("named", "f"),
        parallel_tool_calls=False, dialect=Dialect.ANTHROPIC,
    )  # fmt: skip


def test_what_has_no_place_is_kept_apart() -> None:
    request = request_of(
        container="c",
        mcp_servers=[{"type": "url"}],
        metadata={"user_id": "u", "more": 1},
        output_config={"task_budget": {"total": 5}},
        thinking={"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
        tools=[{"name": "f", "input_schema": {}, "input_examples": [{"x": 1}]}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "x", "novelty": 1}]}],
        nothing=None,
    )
    assert request.extra == {
        "container": "c",
        "mcp_servers": [{"type": "url"}],
        "metadata": {"more": 1},
        "output_config.task_budget": {"total": 5},
        "thinking.display": "omitted",
        "tools[].input_examples": {"f": [{"x": 1}]},
        "messages[].content[].novelty": 1,
    }


@pytest.mark.parametrize(
    ("thinking", "config", "expected"),
    [
        (None, None, None),
        ({"type": "disabled"}, None, Reasoning(is_off=True)),
        ({"type": "adaptive"}, {"effort": "high"}, Reasoning("high", is_adaptive=True)),
        ({"type": "enabled", "budget_tokens": 2000}, None, Reasoning(budget_tokens=2000)),
        (None, {"effort": "low"}, Reasoning("low")),
        (
            {"type": "adaptive", "display": "summarized"},
            None,
            Reasoning(is_adaptive=True, summary="auto"),
        ),
    ],
)
def test_thinking_is_understood(thinking: Any, config: Any, expected: Reasoning | None) -> None:
    assert request_of(thinking=thinking, output_config=config).reasoning == expected


def test_a_kind_of_thinking_yet_unknown_is_kept_apart() -> None:
    request = request_of(thinking={"type": "between_tools"})
    assert (request.reasoning, request.extra) == (None, {"thinking": {"type": "between_tools"}})


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_a_schema_is_found_where_it_was_and_where_it_is(place: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    request = request_of(**{place: {"format": wanted} if place == "output_config" else wanted})
    assert request.format == OutputFormat("json_schema", schema={"type": "object"}, strict=True)


def test_system_may_be_text_or_blocks_and_stand_in_between() -> None:
    later = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Now in French."}]
    request = request_of(system=[{"type": "text", "text": "Be kind.", "cache_control": CACHE}], messages=later)
    assert request.messages == (
        Message("system", (Text("Be kind.", cache=CACHE),)),
        Message("user", (Text("Hi"),)),
        Message("system", (Text("Now in French."),)),
    )
    assert request_of(system="Be kind.").messages == (Message("system", (Text("Be kind."),)),)


@pytest.mark.parametrize(
    ("raw", "block"),
    [
        ({"type": "image", "source": PIXEL}, Media("image", "image/png", data="iVBORw0=")),
        ({"type": "image", "source": {"type": "url", "url": "https://x"}}, Media("image", url="https://x")),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, Media("image", file_id="f")),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                "title": "T",
                "context": "C",
                "citations": {"enabled": True},
                "cache_control": CACHE,
            },
            Media(
                "document",
                "application/pdf",
                data="JVBE",
                name="T",
                extra={"context": "C", "citations": {"enabled": True}},
                cache=CACHE,
            ),
        ),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Words"}},
            Media("document", "text/plain", text="Words"),
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "Words"}]}},
            Media(
                "document",
                text="Words",
                extra={"source": {"type": "content", "content": [{"type": "text", "text": "Words"}]}},
            ),
        ),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}, "caller": {"type": "direct"}},
            ToolCall("t", "f", '{"x":1}'),
        ),
        ({"type": "tool_result", "tool_use_id": "t"}, ToolResult("t", ())),
        (
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [{"type": "text", "text": "x"}, {"type": "image", "source": PIXEL}],
                "is_error": True,
            },
            ToolResult("t", (Text("x"), Media("image", "image/png", data="iVBORw0=")), is_error=True),
        ),
        (
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
            Thinking("Hm", "s", dialect=Dialect.ANTHROPIC),
        ),
        ({"type": "redacted_thinking", "data": "d"}, Thinking(encrypted="d", dialect=Dialect.ANTHROPIC)),
        (
            {"type": "text", "text": "x", "citations": [{"type": "char_location"}]},
            Text("x", ({"type": "char_location"},), Dialect.ANTHROPIC),
        ),
    ],
)
def test_blocks_are_understood(raw: dict[str, Any], block: Block) -> None:
    assert blocks_of(raw) == (block,)


@pytest.mark.parametrize(
    "raw",
    [
        {"type": "search_result", "source": "s", "title": "t", "content": []},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "container_upload", "file_id": "f"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "code_execution_20260120"}},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": "f"}]},
        {"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": PIXEL}]}},
    ],
)
def test_what_only_anthropic_knows_is_kept_whole(raw: dict[str, Any]) -> None:
    assert blocks_of(raw) == (Opaque(Dialect.ANTHROPIC, raw),)


def test_tools_are_the_callers_or_hosted() -> None:
    hosted = {"type": "web_search_20260318", "name": "web_search"}
    own = {"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": True, "cache_control": CACHE}
    assert request_of(tools=[own, hosted]).tools == (
        Tool("f", "d", {"type": "object"}, strict=True, cache=CACHE),
        Tool("web_search", hosted=Opaque(Dialect.ANTHROPIC, hosted)),
    )


# --- answers ------------------------------------------------------------------------------------------------


def encoded(*blocks: Block, stop: Stop = Stop.END, **fields: Any) -> dict[str, Any]:
    answer = Answer("msg_1", "m", blocks, stop, Usage(100, 20, cached=60, cache_written=30, reasoning=8), **fields)
    return AnthropicClient().encode_answer(answer, request_of())


def test_an_answer_is_one_the_official_client_reads() -> None:
    body = encoded(Text("Hi"), ToolCall("t", "f", '{"x":1}'), stop=Stop.TOOL_CALLS, service_tier="default")
    message = AnthropicMessage.model_validate(body)
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (10, 60)
    assert message.usage.service_tier == "standard"
    assert message.usage.output_tokens_details
    assert message.usage.output_tokens_details.thinking_tokens == 8
    assert "x_aether_notes" not in body


@pytest.mark.parametrize("stop", list(Stop))
def test_every_reason_to_stop_has_a_name(stop: Stop) -> None:
    AnthropicMessage.model_validate(encoded(Text("x"), stop=stop))


def test_a_refusal_is_told_as_text() -> None:
    body = encoded(Refusal("No."), stop=Stop.REFUSAL)
    assert (body["content"], body["stop_reason"]) == ([{"type": "text", "text": "No."}], "refusal")


@pytest.mark.parametrize(
    "thought",
    [
        Thinking("Hm", encrypted="gAAA", item_id="rs_1", dialect=Dialect.OPENAI_RESPONSES),
        Thinking("Hm", signature="sig", dialect=Dialect.GEMINI),
        Thinking("Hm", dialect=Dialect.OPENAI_CHAT),
        Thinking("Hm"),
        Thinking("Hm", "sig", dialect=Dialect.ANTHROPIC),
        Thinking(encrypted="d", dialect=Dialect.ANTHROPIC),
    ],
)
def test_thoughts_come_back_as_they_were(thought: Thinking) -> None:
    content = encoded(thought)["content"]
    raw = {"messages": [{"role": "assistant", "content": content}]}
    assert blocks_of(*content, role="assistant") == (thought,)
    assert must_be_translated(raw) is (thought.dialect is not Dialect.ANTHROPIC)


@pytest.mark.parametrize(
    ("dialect", "citation", "words"),
    [
        (
            Dialect.OPENAI_CHAT,
            {"url_citation": {"url": "https://x", "title": "t", "start_index": 1, "end_index": 3}},
            "bc",
        ),
        (Dialect.OPENAI_RESPONSES, {"url": "https://x", "title": "t", "start_index": 0, "end_index": 2}, "ab"),
        (Dialect.GEMINI, {"web": {"uri": "https://x", "title": "t"}}, "abcd"),
    ],
)
def test_a_page_another_model_cites_is_told_and_comes_back_as_it_was(
    dialect: Dialect, citation: dict[str, Any], words: str
) -> None:
    text = Text("abcd", (citation,), dialect)
    content = encoded(text)["content"]
    told = content[0]["citations"][0]
    assert (told["type"], told["url"], told["title"]) == ("web_search_result_location", "https://x", "t")
    assert told["cited_text"] == words
    assert blocks_of(*content, role="assistant") == (text,)
    assert must_be_translated({"messages": [{"role": "assistant", "content": content}]})


def test_a_tool_calls_signature_comes_back_with_it() -> None:
    call = ToolCall("t", "f", "{}", signature="gemini's")
    content = encoded(Text("x"), call)["content"]
    assert [block["type"] for block in content] == ["text", "thinking", "tool_use"]
    assert blocks_of(*content, role="assistant") == (Text("x"), call)


@pytest.mark.parametrize("signature", ["aether:", "aether:!!", "aether:bnVsbA==", "aether:W10="])
def test_a_signature_that_is_not_whole_is_taken_for_anthropics(signature: str) -> None:
    raw = {"type": "thinking", "thinking": "Hm", "signature": signature}
    assert blocks_of(raw) == (Thinking("Hm", signature, dialect=Dialect.ANTHROPIC),)


def test_a_dialect_nobody_knows_is_nobodys() -> None:
    told = base64.urlsafe_b64encode(b'{"dialect":"novelty","encrypted":"e"}').decode()
    raw = {"type": "thinking", "thinking": "Hm", "signature": f"aether:{told}"}
    assert blocks_of(raw) == (Thinking("Hm", encrypted="e"),)


def test_what_an_answer_cannot_carry_is_noted_or_refused() -> None:
    body = encoded(
        Text("x", ({"file_id": "f"},), Dialect.OPENAI_RESPONSES),
        Media("image", "image/png", data="aa"),
        ToolCall("t", "f", "not json"),
    )
    assert body["x_aether_notes"] == [
        "a citation that names no page is left out",
        "a block of kind Media is left out",
        "the arguments of t are no JSON object: they are the string 'arguments'",
    ]
    with pytest.raises(ProviderError, match="web_search_call"):
        encoded(Opaque(Dialect.OPENAI_RESPONSES, {"type": "web_search_call"}))
