"""Chat Completions requests, read from clients and written to providers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import InvalidRequestError
from serve_app.router.dialects.canonical import (
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
from serve_app.router.dialects.openai_chat import OpenAIChatClient
from serve_app.router.dialects.openai_chat_provider import OpenAIChatProvider
from serve_app.router.dialects.openai_chat_schema import validate

CHAT = Dialect.OPENAI_CHAT
CLIENT, PROVIDER = OpenAIChatClient(), OpenAIChatProvider()
HI = Message("user", (Text("hi"),))


def decode(*messages: dict[str, Any], **more: Any) -> Request:
    body = {"model": "m", "messages": list(messages) or [{"role": "user", "content": "hi"}], **more}
    validate(body)
    return CLIENT.decode_request(body)


def ask(*messages: Message, **more: Any) -> Request:
    return Request("m", messages or (HI,), **{"dialect": Dialect.ANTHROPIC, **more})


def encode(*messages: Message, **more: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    encoded = PROVIDER.encode_request(ask(*messages, **more))
    return encoded.body, encoded.notes


def _parts(*parts: dict[str, Any]) -> tuple[Block, ...]:
    return decode({"role": "user", "content": list(parts)}).messages[0].blocks


# --- requests of clients ------------------------------------------------------------------------------------------


def test_every_parameter_is_read() -> None:
    request = decode(
        max_completion_tokens=9,
        temperature=0,
        top_p=0.5,
        seed=7,
        stop="x",
        presence_penalty=1,
        frequency_penalty=-1,
        logprobs=True,
        top_logprobs=3,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        reasoning_effort="low",
        stream=True,
        stream_options={"include_usage": True},
        safety_identifier="s",
        service_tier="flex",
        tools=[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}, "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
        metadata={"a": "b"},
        n=1,
        store=False,
        modalities=["text"],
        logit_bias={"5": 1},
        verbosity=None,
    )
    assert request == Request(
        model="m",
        messages=(HI,),
        tools=(Tool("f", "d", {}, strict=True),),
        tool_choice=ToolChoice("named", "f"),
        parallel_tool_calls=False,
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        stop=("x",),
        seed=7,
        presence_penalty=1,
        frequency_penalty=-1,
        logprobs=3,
        format=OutputFormat("json_schema", "n", {"type": "object"}, strict=True),
        reasoning=Reasoning(effort="low"),
        stream=True,
        wants_usage=True,
        end_user="s",
        service_tier="flex",
        extra={"metadata": {"a": "b"}, "logit_bias": {"5": 1}},
    )


def test_a_conversation_with_tools_is_read() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{oops"}}
    request = decode(
        {"role": "developer", "content": "be good", "name": "boss"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**call, "extra_content": {"google": {"thought_signature": "s"}}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "4"}]},
        {"role": "assistant", "content": "It is 4.", "reasoning_content": "Hm.", "refusal": None},
    )
    assert request.messages == (
        Message("developer", (Text("be good"),), "boss"),
        Message("assistant", (ToolCall("c", "f", "{oops", signature="s"),)),
        Message("user", (ToolResult("c", (Text("4"),)),)),
        Message("assistant", (Thinking("Hm.", dialect=CHAT), Text("It is 4."))),
    )


def test_parts_are_read() -> None:
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}
    assert _parts(
        {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}},
        pdf,
        {"type": "file", "file": {"file_id": "file_1"}},
        {"type": "video_url", "video_url": {"url": "https://a"}},
    ) == (
        Text("hi", cache={"type": "ephemeral"}),
        Media("image", "image/png", "AA==", detail="low"),
        Media("image", url="https://a/b.png"),
        Media("audio", "audio/mp3", "AA=="),
        Media("document", "application/pdf", "AA==", name="a.pdf"),
        Media("document", file_id="file_1"),
        Opaque(CHAT, {"type": "video_url", "video_url": {"url": "https://a"}}),
    )


def test_allowed_tools_are_those_that_are_offered() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "fgh"]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    request = decode(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert (request.tools, request.tool_choice) == ((Tool("g"),), ToolChoice("required"))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ],
)
def test_what_would_change_the_shape_of_the_answer_is_refused(more: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(**more)
    assert caught.value.details["param"] == param


def test_hosted_tools_and_custom_calls_are_kept_for_their_own_dialect() -> None:
    custom = {"type": "custom", "custom": {"name": "c"}}
    used = {"id": "x", "type": "custom", "custom": {"name": "c", "input": "i"}}
    request = decode(
        {"role": "assistant", "tool_calls": [used]}, tools=[custom], web_search_options={"search_context_size": "low"}
    )
    assert [tool.hosted.value["type"] for tool in request.tools if tool.hosted] == ["custom", "web_search_options"]
    body = PROVIDER.encode_request(request).body
    assert body["tools"] == [custom]
    assert body["web_search_options"] == {"search_context_size": "low"}
    assert body["messages"][0]["tool_calls"] == [used]


def test_fields_yet_unknown_within_messages_and_tools_are_noted() -> None:
    request = decode(
        {"role": "user", "content": [{"type": "text", "text": "x", "novelty": 1}], "mood": 2},
        tools=[{"type": "function", "function": {"name": "f", "shape": 3}, "size": 4}],
    )
    encoded = PROVIDER.encode_request(request)
    assert encoded.notes == ("messages.mood", "messages.content.novelty", "tools.size", "tools.function.shape")
    assert not any("." in name for name in encoded.body)


def test_reasoning_can_be_turned_off() -> None:
    assert decode(reasoning_effort="none").reasoning == Reasoning(is_off=True)


# --- requests to providers ----------------------------------------------------------------------------------------


def test_results_of_tools_are_messages_of_their_own() -> None:
    image = Media("image", "image/png", "AA==")
    body, notes = encode(
        Message("assistant", (Text("Look."), ToolCall("c", "f", "{}", signature="s"))),
        Message("user", (ToolResult("c", (Text("a"), image), is_error=True), Text("and?"))),
    )
    assert body["messages"] == [
        {
            "role": "assistant",
            "content": "Look.",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "a"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "text", "text": "and?"},
            ],
        },
    ]
    assert set(notes) == {"thought signature", "tool_result.is_error", "tool_result.media"}


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"top_k": 5}, "top_k"),
        ({"logprobs": 0}, "logprobs"),
        ({"service_tier": "standard_only"}, "service_tier"),
        ({"reasoning": Reasoning(budget_tokens=1024)}, "reasoning budget (told as an effort)"),
        ({"reasoning": Reasoning(summary="auto")}, "reasoning.summary"),
        ({"reasoning": Reasoning(wants_encrypted=True)}, "reasoning.encrypted_content"),
        ({"stop": tuple("abcde")}, "stop (after the first 4)"),
        ({"extra": {"container": "c"}}, "container"),
        ({"messages": (Message("assistant", (Thinking("a", "s", dialect=Dialect.ANTHROPIC),)), HI)}, "thinking"),
        ({"messages": (Message("assistant", (Text("a", ({},), Dialect.ANTHROPIC),)), HI)}, "citations"),
        ({"messages": (Message("user", (Media("document", text="t", extra={"context": "c"}),)),)}, "document.context"),
    ],
)
def test_what_is_noted(more: dict[str, Any], note: str) -> None:
    messages = more.pop("messages", (HI,))
    assert encode(*messages, **more)[1] == (note,)


@pytest.mark.parametrize(
    "block",
    [
        Opaque(Dialect.ANTHROPIC, {"type": "server_tool_use"}),
        Media("image", file_id="f"),
        Media("document", file_id="f"),
        Media("document", url="https://a/b.pdf"),
        Media("audio", "audio/flac", "AA=="),
    ],
)
def test_what_cannot_be_carried_is_refused(block: Block) -> None:
    with pytest.raises(InvalidRequestError, match="cannot take"):
        encode(Message("user", (block,)))


def test_a_hosted_tool_of_another_vendor_is_refused() -> None:
    hosted = Opaque(Dialect.ANTHROPIC, {"type": "web_search_20250305"})
    with pytest.raises(InvalidRequestError, match="no tool 'web_search'"):
        encode(tools=(Tool("web_search", hosted=hosted),))


def test_the_limit_is_told_by_the_name_the_provider_knows() -> None:
    request = ask(max_output_tokens=5)
    assert PROVIDER.encode_request(request).body["max_tokens"] == 5
    assert OpenAIChatProvider("max_completion_tokens").encode_request(request).body["max_completion_tokens"] == 5


_words = st.text(min_size=1, max_size=12)
_parts_of_users = st.lists(
    st.one_of(
        _words.map(Text),
        st.builds(Media, st.just("image"), url=st.just("https://a/b.png"), detail=st.none() | st.just("low")),
        st.builds(Media, st.just("image"), st.just("image/png"), st.just("AA==")),
        st.builds(Media, st.just("audio"), st.just("audio/wav"), st.just("AA==")),
        st.builds(Media, st.just("document"), st.just("application/pdf"), st.just("AA=="), name=_words),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
_calls = st.lists(st.builds(ToolCall, _words, _words, st.text(max_size=9)), min_size=1, max_size=3).map(tuple)
_messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user"]), _words.map(lambda text: (Text(text),)), st.none() | _words),
    st.builds(Message, st.just("user"), _parts_of_users),
    st.builds(
        Message,
        st.just("user"),
        st.builds(ToolResult, _words, _words.map(lambda text: (Text(text),))).map(lambda r: (r,)),
    ),
    st.builds(Message, st.just("assistant"), _calls),
    st.builds(
        Message, st.just("assistant"), st.builds(lambda t, x: (Thinking(t, dialect=CHAT), Text(x)), _words, _words)
    ),
    st.builds(Message, st.just("assistant"), _words.map(lambda text: (Refusal(text),))),
)
_requests = st.builds(
    Request,
    st.just("m"),
    st.lists(_messages, min_size=1, max_size=4).map(tuple),
    tools=st.just((Tool("f", "d", {"type": "object"}, strict=False), Tool("g"))),
    tool_choice=st.sampled_from([None, ToolChoice("auto"), ToolChoice("none"), ToolChoice("named", "f")]),
    parallel_tool_calls=st.sampled_from([None, True, False]),
    max_output_tokens=st.none() | st.integers(1, 9),
    temperature=st.none() | st.floats(0, 2),
    seed=st.none() | st.integers(0, 9),
    stop=st.lists(_words, max_size=4).map(tuple),
    format=st.sampled_from(
        [None, OutputFormat("json"), OutputFormat("json_schema", "n", {"type": "object"}, strict=True)]
    ),
    reasoning=st.sampled_from([None, Reasoning(is_off=True), Reasoning(effort="high")]),
    end_user=st.none() | _words,
    extra=st.sampled_from([{}, {"metadata": {"a": "b"}}]),
)


@given(_requests)
def test_a_request_written_is_read_the_same(request: Request) -> None:
    encoded = PROVIDER.encode_request(request)
    validate(encoded.body)
    assert CLIENT.decode_request(encoded.body) == request
    assert encoded.notes == ()
