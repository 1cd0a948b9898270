"""Requests written for Gemini, and its whole answers."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.errors import InvalidRequestError, ProviderError
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
from serve_app.router.dialects.gemini_provider import GeminiProvider

GEMINI = Dialect.GEMINI
PROVIDER = GeminiProvider()
HI = Message("user", (Text("hi"),))
IMAGE = Media("image", "image/png", "AA==")


def encode(*messages: Message, model: str = "gemini-3-pro", **more: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    encoded = PROVIDER.encode_request(Request(model, messages or (HI,), **more))
    return encoded.body, encoded.notes


def parts(block: Block, model: str = "gemini-3-pro") -> list[dict[str, Any]]:
    body, _ = encode(Message("user", (block,)), model=model)
    told: list[dict[str, Any]] = body["contents"][0]["parts"]
    return told


def test_a_whole_request() -> None:
    body, notes = encode(
        Message("system", (Text("be good"),)),
        Message("developer", (Text("be brief"),)),
        HI,
        HI,
        Message("assistant", (Thinking("Hm.", "s1", dialect=GEMINI), ToolCall("c", "f", '{"a":1}', signature="s2"))),
        Message("user", (ToolResult("c", (Text("4"),)),)),
        tools=(Tool("f", "d", {"type": "object"}), Tool("search", hosted=Opaque(GEMINI, {"googleSearch": {}}))),
        tool_choice=ToolChoice("named", "f"),
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        seed=7,
        stop=("x",),
        presence_penalty=1,
        frequency_penalty=-1,
        format=OutputFormat("json_schema", "n", {"type": "object"}),
        reasoning=Reasoning(effort="low"),
        service_tier="flex",
    )
    assert notes == ()
    assert body == {
        "systemInstruction": {"parts": [{"text": "be good"}, {"text": "be brief"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}, {"text": "hi"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "Hm.", "thought": True, "thoughtSignature": "s1"},
                    {"functionCall": {"id": "c", "name": "f", "args": {"a": 1}}, "thoughtSignature": "s2"},
                ],
            },
            {
                "role": "user",
                "parts": [{"functionResponse": {"id": "c", "name": "f", "response": {"output": "4"}}}],
            },
        ],
        "tools": [
            {"functionDeclarations": [{"name": "f", "description": "d", "parametersJsonSchema": {"type": "object"}}]},
            {"googleSearch": {}},
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {
            "maxOutputTokens": 9,
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 4,
            "seed": 7,
            "presencePenalty": 1,
            "frequencyPenalty": -1,
            "stopSequences": ["x"],
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
            "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"},
        },
        "serviceTier": "flex",
    }


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (IMAGE, {"inlineData": {"mimeType": "image/png", "data": "AA=="}}),
        (Media("image", url="https://a/b.png"), {"fileData": {"mimeType": "image/png", "fileUri": "https://a/b.png"}}),
        (Media("image", url="https://a/b"), {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://a/b"}}),
        (Media("document", data="AA=="), {"inlineData": {"mimeType": "application/pdf", "data": "AA=="}}),
        (Media("document", text="words"), {"text": "words"}),
        (Media("audio", "audio/mp3", "AA=="), {"inlineData": {"mimeType": "audio/mp3", "data": "AA=="}}),
        (Opaque(GEMINI, {"executableCode": {"code": "1"}}), {"executableCode": {"code": "1"}}),
    ],
)
def test_parts(block: Block, told: dict[str, Any]) -> None:
    assert parts(block) == [told]


@pytest.mark.parametrize(
    ("reasoning", "later", "before"),
    [
        (
            Reasoning(effort="high"),
            {"includeThoughts": True, "thinkingLevel": "HIGH"},
            {"includeThoughts": True, "thinkingBudget": 24_576},
        ),
        (
            Reasoning(effort="minimal"),
            {"includeThoughts": True, "thinkingLevel": "MINIMAL"},
            {"includeThoughts": True, "thinkingBudget": 512},
        ),
        (
            Reasoning(budget_tokens=2000),
            {"includeThoughts": True, "thinkingBudget": 2000},
            {"includeThoughts": True, "thinkingBudget": 2000},
        ),
        (Reasoning(is_off=True), {"thinkingLevel": "MINIMAL"}, {"thinkingBudget": 0}),
        (Reasoning(is_adaptive=True), {"includeThoughts": True}, {"includeThoughts": True, "thinkingBudget": -1}),
    ],
)
def test_how_much_to_think(reasoning: Reasoning, later: dict[str, Any], before: dict[str, Any]) -> None:
    for model, told in (("gemini-3-pro", later), ("gemini-2.5-flash", before), ("models/gemini-2.5-pro", before)):
        assert encode(model=model, reasoning=reasoning)[0]["generationConfig"]["thinkingConfig"] == told


def test_the_first_call_of_another_model_bears_googles_placeholder() -> None:
    said = Message("assistant", (ToolCall("c", "f", ""), ToolCall("d", "f", "{}")))
    first, second = encode(HI, said)[0]["contents"][1]["parts"]
    assert first["thoughtSignature"] == "skip_thought_signature_validator"
    assert "thoughtSignature" not in second
    for part in encode(HI, said, model="gemini-2.5-pro")[0]["contents"][1]["parts"]:
        assert "thoughtSignature" not in part


def test_results_of_tools_with_images_and_errors() -> None:
    call = Message("assistant", (ToolCall("c", "f", "{}"),))
    result = Message("user", (ToolResult("c", (Text("bad"), IMAGE), is_error=True),))
    inline = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    told = {"id": "c", "name": "f", "response": {"error": "bad"}}
    body, notes = encode(HI, call, result)
    assert body["contents"][2]["parts"] == [{"functionResponse": {**told, "parts": [inline]}}]
    assert notes == ()
    body, notes = encode(HI, call, result, model="gemini-2.5-pro")
    assert body["contents"][2]["parts"] == [{"functionResponse": told}, inline]
    assert notes == ("tool_result.media (sent beside the result)",)


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"logprobs": 0}, "logprobs"),
        ({"end_user": "u"}, "user"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"parallel_tool_calls": False, "tools": (Tool("f"),)}, "parallel_tool_calls"),
        ({"tools": (Tool("f", strict=True),)}, "tools.strict"),
        ({"stop": tuple("abcdef")}, "stop (after the first 5)"),
        ({"reasoning": Reasoning(is_off=True)}, "reasoning off (this model thinks the least it can)"),
        ({"reasoning": Reasoning(effort="default")}, "reasoning.effort"),
        ({"extra": {"logit_bias": {"1": 1}}}, "logit_bias"),
        ({"messages": (HI, Message("system", (Text("x"),)))}, "a system message after the first (sent as the user's)"),
        ({"messages": (Message("user", (Text("hi"),), "ann"),)}, "messages.name"),
        ({"messages": (HI, Message("assistant", (Thinking("a", dialect=Dialect.OPENAI_CHAT),)))}, "thinking"),
        ({"messages": (HI, Message("assistant", (Text("a", ({},), GEMINI),)))}, "citations"),
        ({"messages": (Message("user", (Media("image", url="https://a", detail="high"),)),)}, "image.detail"),
        ({"messages": (Message("user", (Media("document", text="a", extra={"context": "c"}),)),)}, "document.context"),
    ],
)
def test_what_is_noted(more: dict[str, Any], note: str) -> None:
    assert encode(*more.pop("messages", (HI,)), **more)[1] == (note,)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((Message("user", (Opaque(Dialect.ANTHROPIC, {"type": "server_tool_use"}),)),), "server_tool_use"),
        ((Message("user", (Media("image", file_id="f"),)),), "file id"),
        ((Message("user", (ToolResult("c", (Text("4"),)),)),), "not among the messages"),
        ((HI, Message("assistant", (ToolCall("c", "f", "{oops"),))), "not a JSON object"),
        ((Message("system", (IMAGE,)),), "system message"),
    ],
)
def test_what_cannot_be_carried_is_refused(messages: tuple[Message, ...], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        encode(*messages)


def test_a_hosted_tool_of_another_vendor_is_refused() -> None:
    hosted = Opaque(Dialect.ANTHROPIC, {"type": "web_search_20250305"})
    with pytest.raises(InvalidRequestError, match="no tool 'web_search'"):
        encode(tools=(Tool("web_search", hosted=hosted),))


def test_a_refusal_is_said_in_words() -> None:
    body, _ = encode(HI, Message("assistant", (Refusal("No."),)))
    assert body["contents"][1] == {"role": "model", "parts": [{"text": "No."}]}


@pytest.mark.parametrize(
    "body", [{}, {"candidates": []}, {"candidates": [5]}, {"candidates": [{"content": {"parts": [5]}}]}]
)
def test_what_is_no_answer(body: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        PROVIDER.decode_answer(body)


_words = st.text(min_size=1, max_size=12)
_signatures = st.none() | _words
_arguments = st.dictionaries(_words, st.integers(0, 9), max_size=2).map(lambda given: orjson.dumps(given).decode())
_said = st.lists(
    st.one_of(
        _words.map(Text),
        st.builds(Thinking, _words, _signatures, dialect=st.just(GEMINI)),
        st.builds(Thinking, signature=_words, dialect=st.just(GEMINI)),
        st.builds(ToolCall, _words, _words, _arguments, _words),
        st.builds(Media, st.just("image"), st.just("image/png"), st.just("AA==")),
    ),
    min_size=1,
    max_size=5,
).map(tuple)


@given(_said)
def test_what_the_model_said_goes_back_as_it_came(said: tuple[Block, ...]) -> None:
    content = encode(HI, Message("assistant", said))[0]["contents"][1]
    answer = {"candidates": [{"content": content, "finishReason": "STOP"}]}
    assert PROVIDER.decode_answer(answer).blocks == said
