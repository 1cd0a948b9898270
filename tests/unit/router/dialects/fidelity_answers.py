"""What answers may say, as each provider says it: rows of the fidelity table's second half.

`marks` must be in what the client gets, whole and streamed. A `comes_back` is looked for instead in the canonical form of
what the client brings back with its next request: signatures travel wrapped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.router.dialects.canonical import Block, Dialect, Thinking, ToolCall

from .fidelity_bodies import ANTHROPIC, CHAT, GEMINI, RESPONSES, Body


@dataclass(frozen=True)
class AnswerFeature:
    """A row. A dialect missing in `bodies` has no way to say it."""

    name: str
    bodies: Mapping[Dialect, Body]
    marks: tuple[str, ...] = ()
    tests: Mapping[Dialect, Callable[[Body], bool]] = field(default_factory=dict)
    comes_back: Callable[[Block], bool] | None = None


def chat(message: Body, finish: str = "stop", usage: Body | None = None, **fields: Any) -> Body:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x", **message}, "finish_reason": finish}
    tokens = usage or {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": tokens,
        **fields,
    }


def responses(*output: Body, usage: Body | None = None, **fields: Any) -> Body:
    tokens = usage or {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m"}
    return {**whole, "output": list(output), "usage": tokens, **fields}


def said(*parts: Body) -> Body:
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": list(parts)}


def anthropic(*content: Body, stop: str = "end_turn", usage: Body | None = None, **fields: Any) -> Body:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage or {"input_tokens": 9, "output_tokens": 3},
        **fields,
    }


def gemini(*parts: Body, finish: str = "STOP", usage: Body | None = None, **candidate: Any) -> Body:
    return {
        "responseId": "r1",
        "modelVersion": "m",
        "candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, **candidate}],
        "usageMetadata": usage or {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12},
    }


_X = {"type": "output_text", "text": "x", "annotations": []}
_URL = "https://mark.example"
_PAGE = {"url": _URL, "title": "t", "start_index": 0, "end_index": 1}


def _signed(block: Block) -> bool:
    return isinstance(block, Thinking) and "marksig" in {block.signature, block.encrypted}


def _call_signed(block: Block) -> bool:
    return isinstance(block, ToolCall) and block.signature == "marksig"


def _stops(chat_finish: str, response_status: tuple[str, str | None], anthropic_stop: str) -> Mapping[Dialect, Any]:
    status, reason = response_status
    return {
        CHAT: lambda body: body["choices"][0]["finish_reason"] == chat_finish,
        RESPONSES: lambda body: (
            body["status"] == status and (body.get("incomplete_details") or {}).get("reason") == reason
        ),
        ANTHROPIC: lambda body: body["stop_reason"] == anthropic_stop,
    }


ANSWERS = (
    AnswerFeature(
        "text",
        {
            CHAT: chat({"content": "marktext"}),
            RESPONSES: responses(said({**_X, "text": "marktext"})),
            ANTHROPIC: anthropic({"type": "text", "text": "marktext"}),
            GEMINI: gemini({"text": "marktext"}),
        },
        ("marktext",),
    ),
    AnswerFeature(
        "tool call",
        {
            CHAT: chat(
                {
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_mark",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"x":"markarg"}'},
                        }
                    ],
                },
                "tool_calls",
            ),
            RESPONSES: responses(
                {
                    "type": "function_call",
                    "id": "fc_1",
                    "call_id": "call_mark",
                    "name": "f",
                    "arguments": '{"x":"markarg"}',
                    "status": "completed",
                }
            ),
            ANTHROPIC: anthropic(
                {"type": "tool_use", "id": "call_mark", "name": "f", "input": {"x": "markarg"}}, stop="tool_use"
            ),
            GEMINI: gemini({"functionCall": {"id": "call_mark", "name": "f", "args": {"x": "markarg"}}}),
        },
        ("call_mark", "markarg"),
    ),
    AnswerFeature(
        "tool call's signature",
        {GEMINI: gemini({"functionCall": {"id": "call_1", "name": "f", "args": {}}, "thoughtSignature": "marksig"})},
        comes_back=_call_signed,
    ),
    AnswerFeature(
        "words of thoughts",
        {
            CHAT: chat({"reasoning_content": "markthought"}),
            RESPONSES: responses(
                {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "markthought"}]},
                said(_X),
            ),
            ANTHROPIC: anthropic(
                {"type": "thinking", "thinking": "markthought", "signature": "s"}, {"type": "text", "text": "x"}
            ),
            GEMINI: gemini({"text": "markthought", "thought": True}, {"text": "x"}),
        },
        ("markthought",),
    ),
    AnswerFeature(
        "thoughts' signature or encrypted form",
        {
            RESPONSES: responses(
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "marksig"}, said(_X)
            ),
            ANTHROPIC: anthropic(
                {"type": "thinking", "thinking": "t", "signature": "marksig"}, {"type": "text", "text": "x"}
            ),
            GEMINI: gemini({"text": "t", "thought": True, "thoughtSignature": "marksig"}, {"text": "x"}),
        },
        comes_back=_signed,
    ),
    AnswerFeature(
        "redacted thoughts",
        {ANTHROPIC: anthropic({"type": "redacted_thinking", "data": "marksig"}, {"type": "text", "text": "x"})},
        comes_back=_signed,
    ),
    AnswerFeature(
        "citation of a page",
        {
            CHAT: chat({"annotations": [{"type": "url_citation", "url_citation": _PAGE}]}),
            RESPONSES: responses(said(_X | {"annotations": [{"type": "url_citation", **_PAGE}]})),
            ANTHROPIC: anthropic(
                {
                    "type": "text",
                    "text": "x",
                    "citations": [
                        {
                            "type": "web_search_result_location",
                            "url": _URL,
                            "title": "t",
                            "cited_text": "x",
                            "encrypted_index": "e",
                        }
                    ],
                }
            ),
            GEMINI: gemini(
                {"text": "x"},
                groundingMetadata={
                    "groundingChunks": [{"web": {"uri": _URL, "title": "t"}}],
                    "groundingSupports": [{"segment": {"endIndex": 1, "text": "x"}, "groundingChunkIndices": [0]}],
                },
            ),
        },
        (_URL,),
    ),
    AnswerFeature(
        "citation of a document",
        {
            RESPONSES: responses(
                said(
                    _X
                    | {
                        "annotations": [
                            {"type": "file_citation", "file_id": "markfile", "filename": "markfile", "index": 0}
                        ]
                    }
                )
            ),
            ANTHROPIC: anthropic(
                {
                    "type": "text",
                    "text": "x",
                    "citations": [
                        {
                            "type": "char_location",
                            "cited_text": "markfile",
                            "document_index": 0,
                            "document_title": "markfile",
                            "start_char_index": 0,
                            "end_char_index": 1,
                        }
                    ],
                }
            ),
        },
        ("markfile",),
    ),
    AnswerFeature(
        "refusal in words",
        {
            CHAT: chat({"content": None, "refusal": "markrefusal"}),
            RESPONSES: responses(said({"type": "refusal", "refusal": "markrefusal"})),
            ANTHROPIC: anthropic(
                stop="refusal", stop_details={"type": "refusal", "category": None, "explanation": "markrefusal"}
            ),
        },
        ("markrefusal",),
    ),
    AnswerFeature(
        "image",
        {GEMINI: gemini({"text": "x"}, {"inlineData": {"mimeType": "image/png", "data": "aVBOmark"}})},
        ("aVBOmark",),
    ),
    AnswerFeature(
        "hosted tool's call",
        {
            RESPONSES: responses(
                {"type": "web_search_call", "id": "ws_mark", "status": "completed", "action": {"type": "search"}},
                said(_X),
            ),
            ANTHROPIC: anthropic(
                {"type": "server_tool_use", "id": "ws_mark", "name": "web_search", "input": {}},
                {"type": "text", "text": "x"},
            ),
        },
        ("ws_mark",),
    ),
    AnswerFeature(
        "stop: the limit of tokens",
        {
            CHAT: chat({}, "length"),
            RESPONSES: responses(said(_X), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            ANTHROPIC: anthropic({"type": "text", "text": "x"}, stop="max_tokens"),
            GEMINI: gemini({"text": "x"}, finish="MAX_TOKENS"),
        },
        tests=_stops("length", ("incomplete", "max_output_tokens"), "max_tokens"),
    ),
    AnswerFeature(
        "stop: a stop sequence",
        {ANTHROPIC: anthropic({"type": "text", "text": "x"}, stop="stop_sequence", stop_sequence="markstop")},
        tests=_stops("stop", ("completed", None), "stop_sequence"),
    ),
    AnswerFeature(
        "which stop sequence it was",
        {ANTHROPIC: anthropic({"type": "text", "text": "x"}, stop="stop_sequence", stop_sequence="markstop")},
        ("markstop",),
    ),
    AnswerFeature(
        "stop: filtered",
        {
            CHAT: chat({}, "content_filter"),
            RESPONSES: responses(said(_X), status="incomplete", incomplete_details={"reason": "content_filter"}),
            ANTHROPIC: anthropic({"type": "text", "text": "x"}, stop="refusal"),
            GEMINI: gemini({"text": "x"}, finish="SAFETY"),
        },
        tests=_stops("content_filter", ("incomplete", "content_filter"), "refusal"),
    ),
    AnswerFeature(
        "stop: the context is full",
        {ANTHROPIC: anthropic({"type": "text", "text": "x"}, stop="model_context_window_exceeded")},
        tests=_stops("length", ("incomplete", "max_output_tokens"), "model_context_window_exceeded"),
    ),
    AnswerFeature(
        "cached tokens",
        {
            CHAT: chat(
                {},
                usage={
                    "prompt_tokens": 9000,
                    "completion_tokens": 3,
                    "total_tokens": 9003,
                    "prompt_tokens_details": {"cached_tokens": 4321},
                },
            ),
            RESPONSES: responses(
                said(_X),
                usage={
                    "input_tokens": 9000,
                    "output_tokens": 3,
                    "total_tokens": 9003,
                    "input_tokens_details": {"cached_tokens": 4321},
                },
            ),
            ANTHROPIC: anthropic(
                {"type": "text", "text": "x"},
                usage={"input_tokens": 4679, "cache_read_input_tokens": 4321, "output_tokens": 3},
            ),
            GEMINI: gemini(
                {"text": "x"},
                usage={"promptTokenCount": 9000, "cachedContentTokenCount": 4321, "candidatesTokenCount": 3},
            ),
        },
        tests={
            CHAT: lambda body: (
                body["usage"]["prompt_tokens"] == 9000
                and body["usage"]["prompt_tokens_details"]["cached_tokens"] == 4321
            ),
            RESPONSES: lambda body: (
                body["usage"]["input_tokens"] == 9000 and body["usage"]["input_tokens_details"]["cached_tokens"] == 4321
            ),
            ANTHROPIC: lambda body: (
                body["usage"]["input_tokens"] == 4679 and body["usage"]["cache_read_input_tokens"] == 4321
            ),
        },
    ),
    AnswerFeature(
        "reasoning tokens",
        {
            CHAT: chat(
                {},
                usage={
                    "prompt_tokens": 9,
                    "completion_tokens": 9000,
                    "total_tokens": 9009,
                    "completion_tokens_details": {"reasoning_tokens": 4321},
                },
            ),
            RESPONSES: responses(
                said(_X),
                usage={
                    "input_tokens": 9,
                    "output_tokens": 9000,
                    "total_tokens": 9009,
                    "output_tokens_details": {"reasoning_tokens": 4321},
                },
            ),
            ANTHROPIC: anthropic(
                {"type": "text", "text": "x"},
                usage={
                    "input_tokens": 9,
                    "output_tokens": 9000,
                    "output_tokens_details": {"thinking_tokens": 4321},
                },
            ),
            GEMINI: gemini(
                {"text": "x"},
                usage={"promptTokenCount": 9, "candidatesTokenCount": 4679, "thoughtsTokenCount": 4321},
            ),
        },
        ("4321", "9000"),
    ),
)
