"""Attacks on the door: what a thief of the socket, or of an old token, may say to the supervisor."""

import asyncio
import json
import struct
from collections.abc import Sequence

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.door.relay import Relay
from actors.sandbox.door.wire import CONTROL, DATA, ERROR, HELLO, REQUEST, RESULT
from serve_app.core.errors import AetherError
from tests.contract.sandbox_backends import Sandbox
from tests.escape.attack import Act, Attack, Category, NotApplicable, Unshown, held
from tests.escape.host import Host

_DIALLED = NotApplicable("the supervisor dials and then waits for the host, whose door is closed to everybody else")
_OURS = Unshown("the refusal is the supervisor's own")
_ANSWER_S = 8.0
_NEW = "f" * 32


def _frame(kind: int, payload: bytes | dict[str, object]) -> bytes:
    raw = json.dumps(payload).encode() if isinstance(payload, dict) else payload
    return struct.pack(">IB", len(raw), kind) + raw


def _hello(token: str, version: int = 1) -> bytes:
    return _frame(HELLO, {"version": version, "token": token})


async def _answer(sandbox: Sandbox, said: bytes) -> str:
    """The code of the error, `answered`, or `closed`; and whether the true host is still served."""
    reader, writer = await asyncio.open_unix_connection(str(sandbox.started.door))
    try:
        writer.write(said)
        outcome = "closed"
        async with asyncio.timeout(_ANSWER_S):
            length, kind = struct.unpack(">IB", await reader.readexactly(5))
            payload = await reader.readexactly(length)
            outcome = str(json.loads(payload)["code"]) if kind == ERROR else "answered" if kind == RESULT else str(kind)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
    await sandbox.client.ping()
    return outcome


def _stranger(said: bytes) -> Act:
    async def act(sandbox: Sandbox, host: Host) -> str:
        return await _answer(sandbox, said)

    return act


def _admitted(*frames: bytes) -> Act:
    """After a good hello."""

    async def act(sandbox: Sandbox, host: Host) -> str:
        return await _answer(sandbox, _hello(sandbox.token) + b"".join(frames))

    return act


async def _old_token(sandbox: Sandbox, host: Host) -> str:
    """A holder whose lease has passed on."""
    old = SandboxClient(dial_unix(str(sandbox.started.door)), sandbox.token)
    await old.ping()
    await sandbox.client.claim(_NEW)
    try:
        await old.run(["true"])
    except AetherError as exc:
        return exc.code
    finally:
        await old.close()
    return "done"


async def _replay(sandbox: Sandbox, host: Host) -> str:
    """The bytes of an earlier connection once more."""
    said = _hello(sandbox.token) + _frame(REQUEST, {"op": "exec", "argv": ["touch", "/work/replayed"]})
    await sandbox.client.claim(_NEW)
    outcome = await _answer(sandbox, said)
    return "done" if "replayed" in await sandbox.says("ls /work") else outcome


async def _forged_leases(sandbox: Sandbox, host: Host) -> str:
    """At the relay, through which other nodes come."""
    relay = Relay(lambda name, token: sandbox.started.door if (name, token) == ("sbx", sandbox.token) else None)
    address = await relay.start("127.0.0.1")
    name, _, port = address.rpartition(":")
    forged: Sequence[str] = (
        f"AETHER-RELAY 1 sbx {'0' * 32}\n", f"AETHER-RELAY 1 other {sandbox.token}\n", "AETHER-RELAY 1 sbx\n",
        f"AETHER-RELAY 1 ../sbx {sandbox.token}\n", f"AETHER-RELAY 2 sbx {sandbox.token}\n", "GET / HTTP/1.1\r\n\r\n",
        "x" * 5000 + "\n",
    )  # fmt: skip
    outcomes = set()
    try:
        for greeting in forged:
            reader, writer = await asyncio.open_connection(name, int(port))
            writer.write(greeting.encode() + _hello(sandbox.token) + _frame(REQUEST, {"op": "ping"}))
            async with asyncio.timeout(_ANSWER_S):
                said = await _until_closed(reader)
            outcomes.add("done" if b"uptime_s" in said else "bad_hello" if b"bad_hello" in said else "closed")
            writer.close()
    finally:
        await relay.close()
    return "|".join(sorted(outcomes))


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def _crowd(sandbox: Sandbox, host: Host) -> str:
    """Two hundred connections that say nothing. The host must still get through when they are sent away."""
    writers = []
    try:
        for _ in range(200):
            async with asyncio.timeout(0.5):
                _, writer = await asyncio.open_unix_connection(str(sandbox.started.door))
            writers.append(writer)
    except (OSError, TimeoutError):
        pass  # a full queue is a refusal as well
    finally:
        await asyncio.sleep(0.2)
        for writer in writers:
            writer.close()
    async with asyncio.timeout(15):
        while True:
            try:
                await sandbox.client.ping()
            except AetherError:
                await asyncio.sleep(0.2)
            else:
                return "served"


_PING = _frame(REQUEST, {"op": "ping"})

PROTOCOL = Category(
    "The supervisor's protocol",
    (
        Attack("no-hello", "Ask without a hello.", held("bad_hello"), act=_stranger(_PING), proof=_OURS),
        Attack("silence", "Say nothing, and keep the place.", held("bad_hello", docker=_DIALLED, gvisor=_DIALLED),
               act=_stranger(b""), proof=_OURS),
        Attack("half-hello", "Say a hello that never ends.", held("bad_hello"),
               act=_stranger(_hello("0" * 32)[:20]), proof=_OURS),
        Attack("wrong-token", "Guess the token.", held("bad_hello"), act=_stranger(_hello("0" * 32) + _PING), proof=_OURS),
        Attack("empty-token", "Say an empty one.", held("bad_hello"), act=_stranger(_hello("") + _PING), proof=_OURS),
        Attack("token-of-another-kind", "Say one that is no text.", held("bad_hello"),
               act=_stranger(_frame(HELLO, {"version": 1, "token": ["0"]}) + _PING), proof=_OURS),
        Attack("wrong-version", "Speak another version.", held("bad_hello"),
               act=_stranger(_hello("0" * 32, 2) + _PING), proof=_OURS),
        Attack("oversized-hello", "Say a hello of a gigabyte.", held("bad_frame"),
               act=_stranger(struct.pack(">IB", 1 << 30, HELLO)), proof=_OURS),
        Attack("unknown-frame", "Send a frame of a kind that is none.", held("bad_frame"),
               act=_stranger(_frame(77, b"x")), proof=_OURS),
        Attack("hello-of-bad-text", "Say a hello that is no UTF-8.", held("bad_frame"),
               act=_stranger(_frame(HELLO, b'{"token": "\xff\xfe"}')), proof=_OURS),
        Attack("second-hello", "Say hello twice.", held("bad_frame"), act=_admitted(_hello("0" * 32)), proof=_OURS),
        Attack("oversized-request", "Ask at a length that is not allowed.", held("bad_frame"),
               act=_admitted(struct.pack(">IB", 300 * 1024, REQUEST)), proof=_OURS),
        Attack("request-of-bad-text", "Ask in no UTF-8.", held("bad_frame"),
               act=_admitted(_frame(REQUEST, b'{"op": "\xff"}')), proof=_OURS),
        Attack("request-without-end", "Ask in JSON as deep as it fits.", held("bad_frame"),
               act=_admitted(_frame(REQUEST, b"[" * 200_000)), proof=_OURS),
        Attack("request-that-is-a-list", "Ask with a list.", held("bad_frame"),
               act=_admitted(_frame(REQUEST, b'["ping"]')), proof=_OURS),
        Attack("unknown-operation", "Ask for what there is not.", held("bad_request"),
               act=_admitted(_frame(REQUEST, {"op": "__import__"})), proof=_OURS),
        Attack("operation-of-another-kind", "Ask for an operation that is no text.", held("bad_request"),
               act=_admitted(_frame(REQUEST, {"op": {"ping": 1}})), proof=_OURS),
        Attack("idle-control", "Control what does not run.", held("answered"),
               act=_admitted(_frame(CONTROL, {"do": "cancel"}), _frame(DATA, b"x" * 1000), _PING), proof=_OURS),
        Attack("number-for-path", "Read a path that is a number.", held("bad_request"),
               act=_admitted(_frame(REQUEST, {"op": "read", "path": 7})), proof=_OURS),
        Attack("path-with-zero", "Read a path with a zero in it.", held("bad_path|bad_request"),
               act=_admitted(_frame(REQUEST, {"op": "read", "path": "x\0/etc"})), proof=_OURS),
        Attack("huge-number", "Read from beyond every file.", held("bad_request"),
               act=_admitted(_frame(REQUEST, {"op": "read", "path": "x", "offset": 1 << 70})), proof=_OURS),
        Attack("weak-claim", "Claim with a token that can be guessed.", held("bad_request"),
               act=_admitted(_frame(REQUEST, {"op": "claim", "token": "1"})), proof=_OURS),
        Attack("old-token", "Go on with a lease that has passed on.", held("sandbox_lost"), act=_old_token, proof=_OURS,
               is_alone=True),
        Attack("replay", "Send the bytes of an earlier connection.", held("bad_hello"), act=_replay, proof=_OURS,
               is_alone=True),
        Attack("forged-lease", "Forge a lease at the relay.", held("bad_hello"),
               act=_forged_leases, proof=_OURS),
        Attack("crowd", "Take all the places.", held("served"), act=_crowd, proof=_OURS, is_alone=True),
    ),
)  # fmt: skip
