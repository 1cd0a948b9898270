"""llmock plays each fault we test against: statuses with `Retry-After`, and every way a stream breaks."""

from collections.abc import Iterator

import httpx
import pytest

from tests.doubles.llmock import BASES, Llmock, fail, stream_fault

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def client(llmock: Llmock) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer k"}
    with httpx.Client(base_url=llmock.base_url(), headers=headers, trust_env=False, timeout=5) as client:
        yield client


def test_a_refusal_comes_as_often_as_asked_for(llmock: Llmock, client: httpx.Client) -> None:
    llmock.plays(fail(429, retry_after=3), fail(503))
    answers = [client.post("/chat/completions", json=CHAT) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 503, 200]
    assert answers[0].headers["retry-after"] == "3"
    assert [request["status"] for request in llmock.requests()] == [429, 503, 200]
    assert {finding["code"] for finding in llmock.findings()} >= {"retry_after_ignored"}


def test_a_stream_can_break_in_the_middle(llmock: Llmock, client: httpx.Client) -> None:
    llmock.plays(stream_fault("disconnect", after_chunks=2))
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("POST", "/chat/completions", json=CHAT | {"stream": True}) as answer,
    ):
        answer.read()


def test_a_stream_can_end_without_saying_so(llmock: Llmock, client: httpx.Client) -> None:
    llmock.plays(stream_fault("truncate", after_chunks=1))
    answer = client.post("/chat/completions", json=CHAT | {"stream": True})
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    assert 'finish_reason":"stop' not in answer.text.replace(" ", "")


def test_a_stream_can_stall(llmock: Llmock) -> None:
    llmock.plays(stream_fault("stall", stall_seconds=20))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{llmock.base_url()}/chat/completions", json=CHAT | {"stream": True}, timeout=0.5, trust_env=False)


@pytest.mark.parametrize(
    ("provider", "path", "body"),
    [
        ("openai", "/responses", {"model": "gpt-4o", "input": "hello"}),
        ("anthropic", "/v1/messages", {"model": "claude-x", "max_tokens": 9, "messages": CHAT["messages"]}),
        ("gemini", "/v1beta/models/gemini-x:generateContent", {"contents": [{"parts": [{"text": "hello"}]}]}),
        *((name, "/chat/completions", CHAT) for name in ("groq", "mistral", "together", "xai")),
    ],
)
def test_every_provider_answers_below_its_base(
    llmock: Llmock, provider: str, path: str, body: dict[str, object]
) -> None:
    headers = {"authorization": "Bearer k", "x-api-key": "k", "x-goog-api-key": "k", "anthropic-version": "2023-06-01"}
    answer = httpx.post(llmock.base_url(provider) + path, json=body, headers=headers, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert llmock.requests()[-1]["provider"] == provider
    assert provider in BASES
