"""Attacks by a supervisor that has been taken over, on the host's client: what it may say, and how that ends."""

import json
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from actors.sandbox.door.cells import CellRequest
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.running import ExecRequest
from actors.sandbox.door.wire import DATA, DATA2, END, ERROR, EVENT, HELLO, REQUEST, RESULT
from tests.unit.actors.sandbox.peer import Json, Peer, Script

_MIB = 1 << 20
BROKEN, LOST, SILENT = "sandbox_protocol", "sandbox_lost", "timed_out"
SERVED = "served"
"""No error: the lie was no use."""
Call = Callable[[SandboxClient], Awaitable[object]]


@dataclass(frozen=True)
class Lie:
    """`script` answers each request; `call` is what the host asks for; `ends` the code of the error it must end with."""

    name: str
    wants: str
    script: Script
    call: Call
    ends: str = BROKEN
    answer_timeout_s: float = 5.0


def _raw(data: bytes) -> Script:
    async def script(peer: Peer, request: Json) -> None:
        peer.writer.write(data)

    return script


def _frames(*frames: tuple[int, bytes | Json]) -> Script:
    """One after the other, and then nothing more."""

    async def script(peer: Peer, request: Json) -> None:
        for kind, payload in frames:
            peer.put(kind, payload if isinstance(payload, bytes) else json.dumps(payload).encode())

    return script


def _endless(kind: int, payload: bytes, *before: tuple[int, bytes | Json]) -> Script:
    async def script(peer: Peer, request: Json) -> None:
        await _frames(*before)(peer, request)
        while True:
            peer.put(kind, payload)
            await peer.writer.drain()

    return script


async def _ping(client: SandboxClient) -> object:
    return await client.ping()


async def _twice(peer: Peer, request: Json) -> None:
    for number in (1, 2):
        peer.result(uptime_s=number, connections=1)


async def _two_pings(client: SandboxClient) -> None:
    for _ in range(2):
        assert (await client.ping()).uptime_s == 1


async def _run(client: SandboxClient) -> object:
    return await client.run(["true"], output_bytes=_MIB, timeout_s=5)


async def _read(client: SandboxClient) -> object:
    return await client.read_bytes("x", max_bytes=_MIB)


async def _list(client: SandboxClient) -> object:
    async with client.list(limit=100) as entries:
        return [entry async for entry in entries]


async def _cell(client: SandboxClient) -> object:
    async with client.cell(CellRequest(code="1", timeout_s=5, output_bytes=_MIB)) as cell:
        async for _ in cell:
            continue
        return cell.result


async def _exec(client: SandboxClient) -> object:
    async with client.exec(ExecRequest(argv=["true"], timeout_s=5, output_bytes=_MIB)) as running:
        return await running.wait()


_STARTED: tuple[int, bytes | Json] = (EVENT, {"event": "started", "pid": 7})
_ENDED: Json = {"exit_code": 0, "signal": None, "timed_out": False, "cut": False, "duration_s": 0.1}
_FILE: tuple[int, bytes | Json] = (EVENT, {"event": "file", "size": 4, "mtime_ns": 0, "mode": 0o644})
_ENTRY: Json = {"path": "x", "kind": "file", "size": 1, "mtime_ns": 0, "mode": 0o644}


def _entries(**changed: object) -> Script:
    return _frames((EVENT, {"event": "entries", "entries": [_ENTRY | changed]}), (RESULT, {"cut": False}))


LIES = (
    Lie("oversized-frame", "Have the host keep a gigabyte.", _raw(struct.pack(">IB", 1 << 30, RESULT)), _ping),
    Lie("oversized-data", "The same as data.", _raw(struct.pack(">IB", 1 << 30, DATA)), _run),
    Lie("oversized-json", "JSON longer than a frame of it may be.", _frames((RESULT, b" " * 300_000)), _ping),
    Lie("unknown-kind", "A kind of frame that is none.", _frames((77, b"x")), _ping),
    Lie("host-s-kinds", "Frames only the host may send.", _frames((REQUEST, {"op": "exec"})), _ping),
    Lie("hello-back", "A hello.", _frames((HELLO, {"version": 1})), _ping),
    Lie("bad-text", "JSON that is no UTF-8.", _frames((RESULT, b'{"x": "\xff"}')), _ping),
    Lie("deep-json", "JSON as deep as it fits.", _frames((RESULT, b'{"x":' * 40_000)), _ping),
    Lie("list-for-object", "A list.", _frames((RESULT, b"[1]")), _ping),
    Lie("not-a-number", "A number that is none.",
        _frames((RESULT, b'{"uptime_s": NaN, "connections": 1}')), _ping),
    Lie("endless-number", "A number without end.",
        _frames((RESULT, b'{"uptime_s": 1e999, "connections": 1}')), _ping),
    Lie("huge-integer", "An integer of a thousand digits.",
        _frames((RESULT, b'{"uptime_s": 1, "connections": ' + b"9" * 1000 + b"}")), _ping),
    Lie("wrong-types", "Text where numbers belong.", _frames((RESULT, {"uptime_s": "1", "connections": []})), _ping),
    Lie("missing-fields", "Nothing where numbers belong.", _frames((RESULT, {})), _ping),
    Lie("silence", "No answer at all.", _frames(), _ping, SILENT, 0.3),
    Lie("half-a-frame", "Half an answer.", _raw(struct.pack(">IB", 100, RESULT) + b"{"), _ping, SILENT, 0.3),
    Lie("hang-up", "Hang up in the middle.", _frames((ERROR, {"code": "bad_hello", "message": "gone"})), _ping, LOST),
    Lie("unknown-code", "An error with a code of its own.",
        _frames((ERROR, {"code": "os.system", "message": "x"})), _ping, "conflict"),
    Lie("code-of-another-kind", "An error whose code is a list.", _frames((ERROR, {"code": [], "message": "x"})), _ping),
    Lie("data-before-start", "Output before the program has started.", _frames((DATA, b"x")), _run),
    Lie("result-before-start", "A result before it has.", _frames((RESULT, _ENDED)), _run),
    Lie("started-twice", "Start it twice.", _frames(_STARTED, _STARTED), _run),
    Lie("process-number", "A process number that is none.", _frames((EVENT, {"event": "started", "pid": -1})), _run),
    Lie("other-event", "An event nobody asked for.", _frames(_STARTED, (EVENT, {"event": "entries"})), _run),
    Lie("flood", "More output than was asked for.", _endless(DATA, b"x" * _MIB, _STARTED), _run),
    Lie("flood-on-stderr", "The same on the other stream.", _endless(DATA2, b"x" * _MIB, _STARTED), _exec),
    Lie("result-twice", "A second result, to be taken for the answer to the next question.", _twice, _two_pings, SERVED),
    Lie("signal-number", "A signal that is none.", _frames(_STARTED, (RESULT, _ENDED | {"signal": 4096})), _run),
    Lie("longer-file", "More of a file than was asked for.", _endless(DATA, b"x" * _MIB, _FILE), _read),
    Lie("file-without-event", "A file without its size.", _frames((DATA, b"x"), (RESULT, {})), _read),
    Lie("negative-size", "A file of a negative size.",
        _frames((EVENT, {"event": "file", "size": -1, "mtime_ns": 0, "mode": 0})), _read),
    Lie("end-without-end", "An end with something in it.", _frames(_FILE, (END, b"x")), _read),
    Lie("too-many-entries", "More entries than were asked for.",
        _endless(EVENT, json.dumps({"event": "entries", "entries": [_ENTRY] * 60}).encode()), _list),
    Lie("entry-without-path", "An entry with a path that is a number.", _entries(path=7), _list),
    Lie("entry-with-zero", "A path with a zero in it.", _entries(path="x\0y"), _list),
    Lie("picture-longer-than-said", "A picture longer than it says.",
        _frames((EVENT, {"event": "display", "size": 4, "mime": "image/png"}), (DATA, b"x" * 100)), _cell),
    Lie("picture-of-a-terabyte", "A picture of a terabyte.",
        _frames((EVENT, {"event": "display", "size": 1 << 40, "mime": "image/png"})), _cell),
    Lie("display-of-text", "A display that is no object.", _frames((EVENT, {"event": "display", "data": "x"})), _cell),
    Lie("status", "A way to end that is a list.", _frames((RESULT, {"status": [], "duration_s": 1})), _cell),
)  # fmt: skip
