"""Chunks gathered into one completion object."""

import orjson

from serve_app.inference.answers import WholeAnswer
from tests.unit.inference.scripted import chunk


def test_tool_calls_are_put_together_from_their_parts() -> None:
    answer = WholeAnswer("m")
    for part in (
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
    ):
        answer.add(chunk({"tool_calls": [part]}))
    answer.add(chunk({}, "tool_calls"))
    choice = orjson.loads(answer.body())["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert first == {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    assert second["function"]["name"] == "sub"


def test_log_probabilities_and_reasoning_are_kept() -> None:
    answer = WholeAnswer("m")
    spoken = chunk({"content": "hi"})
    spoken["choices"][0]["logprobs"] = {"content": [{"token": "hi", "logprob": -0.5}]}
    answer.add(chunk({"reasoning_content": "hm"}))
    answer.add(spoken)
    choice = orjson.loads(answer.body())["choices"][0]
    assert choice["logprobs"]["content"] == [{"token": "hi", "logprob": -0.5}]
    assert choice["message"]["reasoning_content"] == "hm"
