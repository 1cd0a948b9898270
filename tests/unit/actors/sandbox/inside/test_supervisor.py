"""The supervisor itself: whom it lets in, what it does with nonsense, its own operations."""

import random
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.unit.actors.sandbox.inside.peer import (
    CONTROL,
    DATA,
    END,
    ERROR,
    EVENT,
    HELLO,
    REQUEST,
    TOKEN,
    Peer,
    RunningSupervisor,
    eventually,
    frame,
    is_alive,
)

NEW_TOKEN = "f" * 32


def refusal(peer: Peer) -> str:
    """Of a connection that is then closed."""
    kind, payload = peer.receive()
    assert kind == ERROR
    peer.expect_end()
    return str(payload["code"])


@pytest.mark.parametrize(
    "hello",
    [
        {"version": 1, "token": "0" * 32},
        {"version": 1, "token": TOKEN[:-1]},
        {"version": 1, "token": ""},
        {"version": 1, "token": "\udc80"},
        {"version": 1, "token": None},
        {"version": 2, "token": TOKEN},
        {"token": TOKEN},
        {},
    ],
)
def test_strangers_stay_outside(supervisor: RunningSupervisor, hello: dict[str, object]) -> None:
    with supervisor.dial() as peer:
        peer.socket.sendall(frame(HELLO, hello) + frame(REQUEST, {"op": "exec", "argv": ["touch", "here"]}))
        assert refusal(peer) == "bad_hello"
    assert not list(supervisor.roots["work"].iterdir())


def test_a_request_is_no_hello(supervisor: RunningSupervisor) -> None:
    with supervisor.dial() as peer:
        peer.request("ping")
        assert refusal(peer) == "bad_hello"


def test_who_says_nothing_is_shown_out(supervisor: RunningSupervisor) -> None:
    with supervisor.dial() as silent, supervisor.dial() as slow:
        slow.socket.sendall(frame(HELLO, {"version": 1, "token": TOKEN})[:-3])
        started = time.monotonic()
        assert refusal(silent) == refusal(slow) == "bad_hello"
        assert 4 < time.monotonic() - started < 8


MALFORMED = {
    "unknown kind": frame(77),
    "kind of the inside": frame(EVENT, {"event": "x"}),
    "second hello": frame(HELLO, {"version": 1, "token": TOKEN}),
    "payload of 4 GiB": struct.pack(">IB", 2**32 - 1, DATA),
    "data a byte too long": struct.pack(">IB", (1 << 20) + 1, DATA),
    "request too long": struct.pack(">IB", (256 << 10) + 1, REQUEST),
    "end with a payload": frame(END, b"x"),
    "no JSON": frame(REQUEST, b"{"),
    "JSON and more": frame(REQUEST, b"{} {}"),
    "no object": frame(REQUEST, b"[]"),
    "empty": frame(REQUEST, b""),
    "no UTF-8": frame(REQUEST, b'{"op": "\xff"}'),
    "infinity": frame(REQUEST, b'{"op": "ping", "x": Infinity}'),
    "deep": frame(REQUEST, b'{"op": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep objects": frame(REQUEST, b'{"a":' * 40_000),
    "a number of 200,000 digits": frame(REQUEST, b'{"op": ' + b"9" * 200_000 + b"}"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_frames_end_their_connection_only(supervisor: RunningSupervisor, name: str) -> None:
    with supervisor.connect() as other, supervisor.connect() as peer:
        peer.socket.sendall(MALFORMED[name])
        assert refusal(peer) == "bad_frame"
        assert other.do("ping").code is None


def test_noise_does_not_kill_it(supervisor: RunningSupervisor) -> None:
    noise = random.Random(7)
    for _ in range(200):
        with supervisor.connect() as peer:
            peer.socket.sendall(noise.randbytes(noise.randrange(1, 400)))
            peer.socket.shutdown(socket.SHUT_WR)
            while peer.socket.recv(65536):
                pass
    with supervisor.connect() as peer:
        assert peer.do("ping").code is None
    assert eventually(lambda: supervisor.open_files() < 15)


@pytest.mark.parametrize("op", ["", "no-such", None, 5, ["exec"], "__class__"])
def test_unknown_operations_are_refused(peer: Peer, op: object) -> None:
    peer.send(REQUEST, {"op": op})
    assert peer.until_end()[-1][1]["code"] == "bad_request"
    assert peer.do("ping").code is None


def test_a_request_while_one_runs_is_no_frame_for_the_moment(peer: Peer, supervisor: RunningSupervisor) -> None:
    peer.request("exec", argv=["sleep", "600"])
    assert peer.receive()[0] == EVENT
    peer.request("ping")
    assert refusal(peer) == "bad_frame"
    assert eventually(lambda: not supervisor.descendants())


def test_late_frames_of_an_operation_are_passed_over(peer: Peer) -> None:
    for kind, payload in ((DATA, b"x"), (END, b""), (CONTROL, b'{"do": "cancel"}')):
        peer.send(kind, payload)
    assert peer.do("ping").code is None


def test_a_claim_puts_everybody_else_out(supervisor: RunningSupervisor) -> None:
    with supervisor.connect() as old, supervisor.connect() as idle, supervisor.connect() as new:
        old.request("exec", argv=["sleep", "600"])
        pid = old.receive()[1]["pid"]
        assert idle.do("ping").result["connections"] == 3
        assert new.do("claim", token=NEW_TOKEN).code is None
        for peer in (old, idle):
            peer.expect_end()
        assert eventually(lambda: not is_alive(pid))
        assert new.do("ping").result["connections"] == 1
        with supervisor.connect() as late:
            assert refusal(late) == "bad_hello"
        with supervisor.connect(NEW_TOKEN) as again:
            assert again.do("ping").code is None


@pytest.mark.parametrize("token", ["", "F" * 32, "f" * 31, "f" * 33, None, 5])
def test_a_bad_token_is_not_taken(peer: Peer, supervisor: RunningSupervisor, token: object) -> None:
    assert peer.do("claim", token=token).code == "bad_request"
    with supervisor.connect() as other:
        assert other.do("ping").code is None


def test_one_connection_too_many(supervisor: RunningSupervisor) -> None:
    peers = [supervisor.connect() for _ in range(128)]
    assert all(peer.do("ping").code is None for peer in peers)
    with supervisor.dial() as surplus:
        assert refusal(surplus) == "too_many"
    for peer in peers:
        peer.socket.close()

    def is_open() -> bool:
        with supervisor.connect() as peer:
            return peer.do("ping").code is None

    assert eventually(is_open)
    assert eventually(lambda: len(list(Path(f"/proc/{supervisor.pid}/task").iterdir())) < 10)


def test_usage(peer: Peer, supervisor: RunningSupervisor) -> None:
    (supervisor.roots["work"] / "folder").mkdir()
    (supervisor.roots["work"] / "folder" / "file").write_bytes(b"x" * 100_000)
    with supervisor.connect() as other:
        other.begin_shell("sleep 600 & sleep 600")
        other.receive()
        assert eventually(lambda: peer.do("usage").result["processes"] == 3)
        usage = peer.do("usage").result
        assert usage["rss_bytes"] > 0
        assert (usage["inodes"], usage["idle_s"]) == (2, 0)
        assert 100_000 <= usage["disk_bytes"] < 150_000
    assert eventually(lambda: peer.do("usage").result["processes"] == 0)
    time.sleep(0.1)
    assert 0.1 < peer.do("usage").result["idle_s"] < 5


def test_freeze_and_thaw(peer: Peer, supervisor: RunningSupervisor) -> None:
    path = supervisor.roots["work"] / "ticks"
    with supervisor.connect() as other:
        other.begin_shell(
            "for n in 1 2 3 4; do setsid sh -c 'while :; do echo >> ticks; sleep 0.01; done' & done; wait"
        )
        assert eventually(lambda: path.exists() and path.stat().st_size > 50)
        assert peer.do("freeze").code is None
        size = path.stat().st_size
        time.sleep(1.5)
        assert path.stat().st_size == size
        assert peer.do("thaw").code is None
        assert eventually(lambda: path.stat().st_size > size)
        other.send(CONTROL, {"do": "cancel"})
        assert other.until_end()[-1][1]["signal"] == 9
    assert not supervisor.descendants()


def test_whoever_is_caught_between_vfork_and_exec_is_frozen_too(peer: Peer, supervisor: RunningSupervisor) -> None:
    """A shell spends much of its time there. It is in the kernel until its child, which is stopped, has called exec."""
    with supervisor.connect() as other:
        other.begin_shell("while :; do date +%N > now; done")
        for _ in range(15):
            time.sleep(0.02)
            assert peer.do("freeze").code is None
            assert peer.do("thaw").code is None


def test_what_is_frozen_can_be_killed(peer: Peer, supervisor: RunningSupervisor) -> None:
    with supervisor.connect() as other:
        other.begin_shell("setsid sleep 600 & sleep 600")
        assert eventually(lambda: len(supervisor.descendants()) == 4)
        assert peer.do("freeze").code is None
    assert eventually(lambda: not supervisor.descendants())


def test_the_end_takes_everybody_along() -> None:
    running = RunningSupervisor()
    with running.connect() as peer:
        peer.begin_shell("setsid sh -c 'sleep 600 & sleep 600' & sleep 600")
        assert eventually(lambda: len(running.descendants()) == 6)
        running.close()


def test_dialling_the_host(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("d")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s"))
    listener.listen(16)
    listener.settimeout(20)
    running = RunningSupervisor(dial=str(folder / "s"))
    try:
        offered = [Peer(listener.accept()[0]) for _ in range(4)]
        offered[2].send(HELLO, {"version": 1, "token": TOKEN})
        assert offered[2].do("exec", argv=["echo", "hi"]).out == b"hi\n"
        offered.append(Peer(listener.accept()[0]))
        offered[4].send(HELLO, {"version": 1, "token": TOKEN})
        assert offered[4].do("ping").result["connections"] == 2
        offered.append(Peer(listener.accept()[0]))
        # One that the host gives up is replaced.
        offered[0].socket.close()
        offered.append(Peer(listener.accept()[0]))
        for peer in offered:
            peer.socket.close()
    finally:
        listener.close()
        running.close()
