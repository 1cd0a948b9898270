"""Responses requests and answers, in from a client and out to a provider."""

from typing import Any

import pytest
from openai.types.responses import Response

from serve_app.core.domain.spending import Usage
from serve_app.core.errors import ContentFilteredError, InvalidRequestError, ProviderError, ProviderRefusedError
from serve_app.router.dialects.anthropic_wire import wrap
from serve_app.router.dialects.canonical import (
    Answer,
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
from serve_app.router.dialects.openai_responses import ResponsesClient
from serve_app.router.dialects.openai_responses_provider import ResponsesProvider
from serve_app.router.dialects.openai_responses_wire import has_foreign_thinking, item_id, response_of_item
from serve_app.router.dialects.responses_schema import validate

OURS = Dialect.OPENAI_RESPONSES
FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}
RAW: dict[str, Any] = {
    "model": "gpt-5",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": "No jokes."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look."},
                {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "low"},
                {"type": "input_image", "image_url": "https://a.org/b.png"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"},
                {"type": "input_file", "file_id": "file-1"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "Hm."}],
            "encrypted_content": "e",
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "A", "annotations": []}, {"type": "refusal", "refusal": "No"}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_image", "file_id": "file-2"}]},
        {"role": "user", "content": "Go on."},
    ],
    "tools": [FUNCTION],
    "tool_choice": {"type": "function", "name": "f"},
    "parallel_tool_calls": False,
    "max_output_tokens": 100,
    "temperature": 0.5,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "high", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"k": "v"},
    "truncation": "auto",
    "user": "ann",
    "prompt_cache_key": "key",
    "stream": True,
}
MESSAGES = (
    Message("system", (Text("Be brief."),)),
    Message("developer", (Text("No jokes."),)),
    Message(
        "user",
        (
            Text("Look."),
            Media("image", "image/png", "aGk=", detail="low"),
            Media("image", url="https://a.org/b.png"),
            Media("document", "application/pdf", "JVBE", name="a.pdf"),
            Media("document", file_id="file-1"),
        ),
    ),
    Message(
        "assistant",
        (
            Thinking("Hm.", "e", item_id="rs_1", dialect=OURS),
            Text("A"),
            Refusal("No"),
            ToolCall("c1", "f", "{}", item_id="fc_1"),
            ToolCall("c2", "f", "{"),
        ),
    ),
    Message("user", (ToolResult("c1", (Text("one"),)), ToolResult("c2", (Media("image", file_id="file-2"),)))),
    Message("user", (Text("Go on."),)),
)


def request_of(**fields: Any) -> Request:
    return ResponsesClient().decode_request({"model": "m", "input": "Hi"} | fields)


def encoded(*blocks: Any, role: Any = "user", **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    told = ResponsesProvider().encode_request(Request("m", (Message(role, blocks),), **fields))
    validate(told.body)
    return told.body, told.notes


# --- from a client -------------------------------------------------------------------------------------------


def test_a_request_is_understood() -> None:
    validate(RAW)
    request = ResponsesClient().decode_request(RAW)
    assert request.messages == MESSAGES
    assert request.tools == (Tool("f", "d", {"type": "object"}),)
    assert request.tool_choice == ToolChoice("named", "f")
    assert request.format == OutputFormat("json_schema", "n", {"a": 1}, strict=True)
    assert request.reasoning == Reasoning("high", summary="auto", wants_encrypted=True)
    assert (request.parallel_tool_calls, request.max_output_tokens, request.temperature) == (False, 100, 0.5)
    assert (request.end_user, request.stream) == ("ann", True)
    assert request.extra == {"truncation": "auto", "verbosity": "low", "prompt_cache_key": "key"}


def test_only_openai_knows_some_items_and_tools() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": "x"}
    request = request_of(input=[search, output, {"id": "msg_1"}], tools=[{"type": "web_search"}])
    assert request.messages == (
        Message("assistant", (Opaque(OURS, search),)),
        Message("user", (Opaque(OURS, output), Opaque(OURS, {"id": "msg_1"}))),
    )
    assert request.tools == (Tool("web_search", hosted=Opaque(OURS, {"type": "web_search"})),)


def test_only_the_allowed_tools_are_offered() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    request = request_of(tools=[FUNCTION, FUNCTION | {"name": "g"}], tool_choice=choice)
    assert [tool.name for tool in request.tools] == ["f"]
    assert request.tool_choice == ToolChoice("required")


@pytest.mark.parametrize("name", ["prompt", "conversation", "background"])
def test_what_openai_keeps_for_the_caller_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        request_of(**{name: {"id": "x"} if name != "background" else True})
    assert refused.value.details["param"] == name


# --- to a client ---------------------------------------------------------------------------------------------


def test_an_answer_is_a_whole_response() -> None:
    request = ResponsesClient().decode_request(RAW | {"previous_response_id": "resp_0"})
    answer = Answer("msg_1", "claude", (Text("Hi"), ToolCall("c", "f", "{}")), Stop.TOOL_CALLS, Usage(10, 5, 4, 1, 2))
    body = ResponsesClient().encode_answer(answer, request)
    response = Response.model_validate(body)
    assert response.output_text == "Hi"
    assert response.usage
    assert (response.usage.total_tokens, response.usage.input_tokens_details.cached_tokens) == (15, 4)
    assert (response.status, response.model, response.previous_response_id) == ("completed", "claude", "resp_0")
    for name in ("instructions", "metadata", "tool_choice", "temperature", "truncation", "user"):
        assert body[name] == RAW[name]
    assert body["tools"] == [FUNCTION | {"strict": True}]
    assert body["created_at"] > 1_700_000_000


@pytest.mark.parametrize(
    ("stop", "blocks", "status", "reason"),
    [
        (Stop.END, (Text("a"),), "completed", None),
        (Stop.LENGTH, (Text("a"),), "incomplete", "max_output_tokens"),
        (Stop.CONTENT_FILTER, (), "incomplete", "content_filter"),
        (Stop.REFUSAL, (Refusal("no"),), "completed", None),
        (Stop.REFUSAL, (Text("a"),), "incomplete", "content_filter"),
    ],
)
def test_how_an_answer_ended(stop: Stop, blocks: tuple[Any, ...], status: str, reason: str | None) -> None:
    body = ResponsesClient().encode_answer(Answer("a", "m", blocks, stop, Usage()), request_of())
    assert body["status"] == status
    assert (body["incomplete_details"] or {}).get("reason") == reason
    if status == "incomplete" and body["output"]:
        assert body["output"][0]["status"] == "incomplete"


def test_citations_that_name_a_page_are_ours_and_others_are_kept() -> None:
    chat = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}
    page = {"type": "char_location", "cited_text": "x", "document_index": 0}
    text = Text("ab", (chat, page), Dialect.ANTHROPIC)
    body = ResponsesClient().encode_answer(Answer("a", "m", (text,), Stop.END, Usage()), request_of())
    flat = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
    assert body["output"][0]["content"][0]["annotations"] == [flat, page]


def test_a_block_without_an_item_is_not_dropped() -> None:
    answer = Answer("a", "m", (Opaque(Dialect.GEMINI, {"executableCode": {}}),), Stop.END, Usage())
    with pytest.raises(ProviderError):
        ResponsesClient().encode_answer(answer, request_of())


def test_an_items_id_tells_its_response() -> None:
    assert response_of_item(item_id("msg", "resp_abc", 17)) == "resp_abc"


def test_another_vendors_thoughts_are_noticed() -> None:
    thought = {
        "type": "reasoning",
        "summary": [],
        "encrypted_content": wrap(Thinking("", "s", dialect=Dialect.ANTHROPIC)),
    }
    assert has_foreign_thinking({"input": [thought]})
    assert not has_foreign_thinking(RAW)
    assert not has_foreign_thinking({"input": "Hi"})


# --- to a provider -------------------------------------------------------------------------------------------


def test_a_request_goes_on_as_it_came() -> None:
    request = ResponsesClient().decode_request(RAW)
    told = ResponsesProvider().encode_request(request)
    validate(told.body)
    assert told.notes == ()
    assert told.body["store"] is False
    again = ResponsesClient().decode_request(told.body)
    assert [message.blocks for message in again.messages] == [
        tuple(_without_ids(block) for block in message.blocks) for message in MESSAGES
    ]
    for name in ("format", "reasoning", "tool_choice", "parallel_tool_calls", "temperature", "end_user", "extra"):
        assert getattr(again, name) == getattr(request, name)
    assert told.body["tools"] == [FUNCTION | {"strict": False}]


def _without_ids(block: Any) -> Any:
    match block:
        case Thinking():
            return Thinking(block.text, block.signature, dialect=block.dialect)
        case ToolCall():
            return ToolCall(block.id, block.name, block.arguments)
        case Media(kind="image", detail=None):
            return Media("image", block.media_type, block.data, block.url, block.file_id, detail="auto")
        case ToolResult():
            return ToolResult(block.call_id, tuple(_without_ids(part) for part in block.content))
        case _:
            return block


@pytest.mark.parametrize(
    ("blocks", "note"),
    [
        ((Thinking("Hm.", "s", dialect=Dialect.ANTHROPIC),), "thinking of another model"),
        ((Thinking("Hm."),), "thinking"),
        ((Text("a", ({"type": "char_location"},), Dialect.ANTHROPIC),), "citations"),
        ((ToolCall("c", "f", "{}", "sig"),), "tool call signature"),
    ],
)
def test_what_cannot_be_carried_of_a_message_is_noted(blocks: tuple[Any, ...], note: str) -> None:
    assert encoded(*blocks, Text("a"), role="assistant")[1] == (note,)


@pytest.mark.parametrize(
    ("fields", "notes"),
    [
        ({"stop": ("\n",), "top_k": 5, "seed": 1}, ("top_k", "seed", "stop")),
        (
            {"presence_penalty": 0.0, "frequency_penalty": 1.0, "logprobs": 0},
            ("presence_penalty", "frequency_penalty", "logprobs"),
        ),
        ({"max_output_tokens": 1}, ("max_output_tokens: raised to 16, the least there is",)),
        ({"reasoning": Reasoning(budget_tokens=4000)}, ("thinking budget: as effort medium",)),
        ({"reasoning": Reasoning(is_off=True)}, ("thinking off: left to the model",)),
        ({"extra": {"logit_bias": {"1": 2}, "metadata": {"a": "b"}, "n": 1}}, ("logit_bias",)),
        ({"extra": {"metadata": {}}, "dialect": Dialect.ANTHROPIC}, ("metadata",)),
    ],
)
def test_what_cannot_be_carried_of_the_rest_is_noted(fields: dict[str, Any], notes: tuple[str, ...]) -> None:
    assert encoded(Text("Hi"), **fields)[1] == notes


def test_a_failed_tool_and_a_named_message_are_noted() -> None:
    result = Message("user", (ToolResult("c", (Text("a"), Text("b")), is_error=True),), name="ann")
    call = Message("assistant", (ToolCall("c", "f", "{}"),))
    told = ResponsesProvider().encode_request(Request("m", (call, result)))
    assert told.notes == ("messages.name", "tool_result.is_error")
    assert [part["text"] for part in told.body["input"][1]["output"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("blocks", "fields"),
    [
        ((Media("audio", "audio/wav", "aGk="),), {}),
        ((Media("document", file_id="file_011"),), {"dialect": Dialect.ANTHROPIC}),
        ((Opaque(Dialect.ANTHROPIC, {"type": "server_tool_use"}),), {}),
        ((Opaque(OURS, {"id": "msg_1"}),), {"dialect": OURS}),
        ((Text("a"),), {"tools": (Tool("w", hosted=Opaque(Dialect.ANTHROPIC, {})),)}),
        ((Text("a"),), {"extra": {"n": 2}}),
    ],
)
def test_what_is_essential_and_cannot_be_carried_is_refused(blocks: tuple[Any, ...], fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        encoded(*blocks, **fields)


def test_encrypted_thoughts_are_asked_of_models_that_think() -> None:
    assert "include" not in encoded(Text("a"))[0]
    assert encoded(Text("a"), reasoning=Reasoning("low"))[0]["include"] == ["reasoning.encrypted_content"]


def test_a_plain_text_document_is_a_file() -> None:
    body, notes = encoded(Media("document", text="Hi", extra={"context": "c"}), dialect=Dialect.ANTHROPIC)
    (part,) = body["input"][0]["content"]
    assert part == {"type": "input_file", "filename": "document.txt", "file_data": "data:text/plain;base64,SGk="}
    assert notes == ("document.context",)


# --- from a provider -----------------------------------------------------------------------------------------


def answered(**fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "model": "m", "created_at": 5, "status": "completed", "output": [], "error": None} | fields


def test_an_answer_is_understood() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "i"}
    usage = {
        "input_tokens": 9,
        "output_tokens": 8,
        "input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 6},
    }
    answer = ResponsesProvider().decode_answer(answered(output=[*RAW["input"][2:6], custom], usage=usage))
    assert answer.blocks == (*MESSAGES[3].blocks, Opaque(OURS, custom))
    assert answer.usage == Usage(9, 8, 7, 1, 6)
    assert (answer.stop, answer.created) == (Stop.TOOL_CALLS, 5)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, ProviderError),
        (answered(output=[{"type": "message"}]), ProviderError),
        (answered(output=None), ProviderError),
        (answered(status="queued"), ProviderError),
        (answered(status="failed", error=None), ProviderError),
        (answered(error={"code": "server_error", "message": "x"}), ProviderError),
        (answered(error={"code": "invalid_prompt", "message": "x"}), ContentFilteredError),
        (answered(error={"code": "image_too_large", "message": "x"}), ProviderRefusedError),
    ],
)
def test_what_is_no_answer(body: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ResponsesProvider().decode_answer(body)
