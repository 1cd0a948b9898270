"""A model provider fast enough to measure gateways with: prepared bytes, one write an event, nothing parsed twice.

Run as `python -m tests.bench.mock_provider --port N`. It answers Chat Completions and Anthropic Messages, whole and
streamed. A prompt that contains `[wait 50 ms]` is thought about that long before the first byte.
"""

import argparse
import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, cast

import uvloop

WORD = "and so on "
WAIT = re.compile(rb"\[wait (\d+) ms\]")
STREAMED = re.compile(rb'"stream"\s*:\s*true')
WANTS_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


def packed(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def whole(data: dict[str, Any]) -> bytes:
    body = packed(data)
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_mock\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )


def streamed(events: list[bytes]) -> list[bytes]:
    """One HTTP chunk an event; the headers go with the first, the end with the last."""
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-request-id: req_mock\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    return [head + chunks[0], *chunks[1:-1], chunks[-1] + b"0\r\n\r\n"]


def chat_events(chunks: int, *, usage: bool) -> list[bytes]:
    envelope = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1767225600, "model": "mock"}

    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: %b\n\n" % packed({**envelope, "choices": [choice]})

    counted = packed({**envelope, "choices": [], "usage": chat_usage(chunks)})
    return [
        event({"role": "assistant", "content": ""}),
        *[event({"content": WORD})] * chunks,
        event({}, "stop"),
        *([b"data: %b\n\n" % counted] if usage else []),
        b"data: [DONE]\n\n",
    ]


def chat_usage(written: int) -> dict[str, int]:
    return {"prompt_tokens": 12, "completion_tokens": written, "total_tokens": 12 + written}


def chat_answer() -> dict[str, Any]:
    message = {"role": "assistant", "content": WORD * 20, "refusal": None}
    return {
        "id": "chatcmpl-mock", "object": "chat.completion", "created": 1767225600, "model": "mock",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": chat_usage(60), "system_fingerprint": "fp_mock",
    }  # fmt: skip


def anthropic_message(content: list[dict[str, str]], stop: str | None, written: int) -> dict[str, Any]:
    return {
        "id": "msg_mock", "type": "message", "role": "assistant", "model": "mock", "content": content,
        "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 12, "output_tokens": written},
    }  # fmt: skip


def anthropic_events(chunks: int) -> list[bytes]:
    def event(kind: str, **data: Any) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), packed({"type": kind, **data}))

    return [
        event("message_start", message=anthropic_message([], None, 1)),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *[event("content_block_delta", index=0, delta={"type": "text_delta", "text": WORD})] * chunks,
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None},
              usage={"output_tokens": chunks}),
        event("message_stop"),
    ]  # fmt: skip


class Answers:
    """Every answer there is, ready to be written."""

    def __init__(self, chunks: int) -> None:
        self._whole = {
            b"/chat/completions": whole(chat_answer()),
            b"/messages": whole(anthropic_message([{"type": "text", "text": WORD * 20}], "end_turn", 60)),
        }
        self._streams = {
            (b"/chat/completions", False): streamed(chat_events(chunks, usage=False)),
            (b"/chat/completions", True): streamed(chat_events(chunks, usage=True)),
            (b"/messages", False): streamed(anthropic_events(chunks)),
        }

    def to(self, head: bytes, body: bytes) -> list[bytes]:
        path = b"/messages" if b"/messages " in head[:200] else b"/chat/completions"
        if not STREAMED.search(body):
            return [self._whole[path]]
        return self._streams[path, path == b"/chat/completions" and bool(WANTS_USAGE.search(body))]


class Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self._buffer[:end]
        length = LENGTH.search(head)
        size = end + (int(length[1]) if length else 0)
        if len(self._buffer) < size:
            return
        body, self._buffer = self._buffer[end:size], self._buffer[size:]
        pieces = iter(self._answers.to(head, body))
        if wait := WAIT.search(body):
            self._loop.call_later(int(wait[1]) / 1000, self._write, pieces)
        else:
            self._write(pieces)

    def _write(self, pieces: Iterator[bytes]) -> None:
        # Between two events the loop turns: they leave as a provider sends them, each on its own.
        piece = next(pieces, None)
        if piece is not None and not self._transport.is_closing():
            self._transport.write(piece)
            self._loop.call_soon(self._write, pieces)


async def serve(port: int, chunks: int) -> None:
    answers = Answers(chunks)
    server = await asyncio.get_running_loop().create_server(lambda: Line(answers), "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, default=100, help="text events of a stream")
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.chunks))


if __name__ == "__main__":
    main()
