"""Frames as they come off a connection: however they are cut, only what the protocol allows is let through."""

import asyncio
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.sandbox.door.connection import HIGH_BYTES, Connection
from actors.sandbox.door.refusals import refusal, words
from actors.sandbox.door.wire import DATA, DATA2, EVENT, MAX_JSON_BYTES, RESULT, decode, encode
from serve_app.core.errors import (
    AetherError,
    ConflictError,
    InvalidRequestError,
    NoSuchFileError,
    SandboxFullError,
    SandboxLostError,
    SandboxProtocolError,
)


class Transport(asyncio.Transport):
    """Keeps what is written, and whether reading is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_paused = False
        self.is_aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_aborted

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def abort(self) -> None:
        self.is_aborted = True


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">IB", len(payload), kind) + payload


def _open() -> tuple[Connection, Transport]:
    connection, transport = Connection(), Transport()
    connection.connection_made(transport)
    connection.request(b"{}")
    return connection, transport


async def _all(connection: Connection) -> list[tuple[int, bytes]]:
    """Frames up to the result, pieces of data of one kind joined."""
    found: list[tuple[int, bytes]] = []
    while True:
        kind, payload = await connection.receive(1)
        if kind in {DATA, DATA2} and found and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1] + payload)
        elif kind not in {DATA, DATA2} or payload:
            found.append((kind, payload))
        if kind == RESULT:
            return found


async def _read_past_the_result(connection: Connection) -> None:
    await _all(connection)
    await connection.receive(1)


@given(
    pieces=st.lists(st.tuples(st.sampled_from([DATA, DATA2, EVENT]), st.binary(max_size=300)), max_size=8),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_frames_survive_any_cut(pieces: list[tuple[int, bytes]], cuts: list[int]) -> None:
    async def run() -> None:
        connection, _ = _open()
        stream = b"".join(_frame(kind, payload) for kind, payload in pieces) + _frame(RESULT, b"{}")
        at = number = 0
        while at < len(stream):
            size = cuts[number % len(cuts)]
            connection.data_received(stream[at : at + size])
            at, number = at + size, number + 1
        expected: list[tuple[int, bytes]] = []
        for kind, payload in [*pieces, (RESULT, b"{}")]:
            if kind in {DATA, DATA2} and expected and expected[-1][0] == kind:
                expected[-1] = (kind, expected[-1][1] + payload)
            elif kind in {EVENT, RESULT} or payload:
                expected.append((kind, payload))
        assert await _all(connection) == expected

    asyncio.run(run())


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack(">IB", 1024 * 1024 + 1, DATA),
        struct.pack(">IB", MAX_JSON_BYTES + 1, EVENT),
        struct.pack(">IB", 1, 5),
        _frame(1, b"{}"),
        _frame(2, b"{}"),
        _frame(9, b"{}"),
        _frame(0, b""),
        _frame(255, b""),
        _frame(RESULT, b"{}") + _frame(DATA, b"more"),
        _frame(RESULT, b"{}") + b"\0",
    ],
)
async def test_what_the_protocol_does_not_have_ends_the_connection(bad: bytes) -> None:
    connection, transport = _open()
    connection.data_received(bad)
    assert transport.is_aborted
    with pytest.raises(SandboxProtocolError):
        await _read_past_the_result(connection)


async def test_nothing_may_come_while_nothing_was_asked() -> None:
    connection, transport = Connection(), Transport()
    connection.connection_made(transport)
    connection.data_received(_frame(EVENT, b"{}"))
    assert transport.is_aborted


@pytest.mark.parametrize("size", [0, 1, 60_000])
async def test_a_flood_is_held_back(size: int) -> None:
    """Empty frames as well: each costs memory of its own."""
    connection, transport = _open()
    sent = 0
    while not transport.is_paused:
        connection.data_received(_frame(DATA, bytes(size)))
        sent += 1
        assert sent * max(size, 50) <= 2 * HIGH_BYTES
    while transport.is_paused:
        await connection.receive(1)
        sent -= 1
    assert sent >= 0


async def test_a_reader_is_told_that_the_connection_was_lost_after_what_came_before() -> None:
    connection, _ = _open()
    connection.data_received(_frame(DATA, b"last words"))
    connection.connection_lost(None)
    assert await connection.receive(1) == (DATA, b"last words")
    for _ in range(2):
        with pytest.raises(SandboxLostError):
            await connection.receive(1)


async def test_what_follows_a_raw_result_is_raw() -> None:
    connection, transport = Connection(), Transport()
    connection.connection_made(transport)
    connection.request(b"{}", turns_raw=True)
    connection.data_received(_frame(RESULT, b'{"raw":true}') + b"\xff\xff\xff\xff\xff rest")
    assert (await connection.receive(1))[0] == RESULT
    assert await connection.read(1) == b"\xff\xff\xff\xff\xff rest"
    assert not transport.is_aborted


def test_names_that_are_no_utf8_go_both_ways() -> None:
    name = os.fsdecode(b"\xff\xfe caf\xc3\xa9")
    sent = encode({"path": name})
    assert sent.isascii()
    assert decode(sent) == {"path": name}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"1",
        b"{",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": "\\ud800", "b": NaN}',
        b"[" * 100_000,
        b'{"\\udc80":' * 20_000,
        b'{"a": "\\udc80", "b": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(SandboxProtocolError):
        decode(payload)


def test_a_request_that_is_too_long_is_ours_to_refuse() -> None:
    with pytest.raises(InvalidRequestError):
        encode({"shell": "x" * MAX_JSON_BYTES})


@pytest.mark.parametrize(
    ("payload", "kind", "code"),
    [
        (b'{"code":"not_found","message":"x"}', NoSuchFileError, "not_found"),
        (b'{"code":"exists","message":"x"}', ConflictError, "exists"),
        (b'{"code":"__class__","message":"x"}', ConflictError, "failed"),
        (b'{"code":"full","message":"x","details":{"limit":"disk","more":1}}', SandboxFullError, "full"),
        (b'{"code":"bad_hello","message":"x"}', SandboxLostError, "bad_hello"),
    ],
)
def test_codes_from_inside_are_looked_up(payload: bytes, kind: type[AetherError], code: str) -> None:
    found, error = refusal(payload, NoSuchFileError)
    assert (found, type(error)) == (code, kind)
    assert set(error.details) <= {"sandbox_code", "limit"}


@pytest.mark.parametrize("payload", [b"{}", b'{"code":1,"message":"x"}', b'{"code":"full","message":[]}'])
def test_an_error_of_another_form_is_a_violation(payload: bytes) -> None:
    with pytest.raises(SandboxProtocolError):
        refusal(payload, NoSuchFileError)


def test_words_from_inside_are_cleaned() -> None:
    assert words("a\x1b[31mb\nc\u202ed\udc80") == "a�[31mb c�d�"
    assert len(words("x" * 10_000)) == 500
    assert refusal(b'{"code":"failed","message":"y"}', NoSuchFileError)[1].message == "In the sandbox: y"
