"""Terminals: a size, a shell with job control, Ctrl-C, and nothing left behind."""

import time
from typing import Any

from tests.unit.actors.sandbox.inside.peer import (
    CONTROL,
    DATA,
    ERROR,
    RESULT,
    Peer,
    RunningSupervisor,
    eventually,
)

BASH = ["/bin/bash", "--norc", "--noprofile"]


def read_until(peer: Peer, text: bytes) -> bytes:
    shown = b""
    while text not in shown:
        kind, payload = peer.receive()
        assert kind == DATA, (kind, payload, shown)
        shown += payload
    return shown


def begin(peer: Peer, **fields: object) -> dict[str, Any]:
    peer.request("terminal", **{"columns": 100, "rows": 30, "argv": BASH, "env": {"PS1": "> "}, **fields})
    kind, event = peer.receive()
    assert event["event"] == "started", (kind, event)
    assert isinstance(event, dict)
    return event


def test_a_shell_in_a_terminal(peer: Peer) -> None:
    begin(peer)
    peer.send(DATA, b"tty; stty size; ps -o stat= -p $$\n")
    assert b"30 100" in read_until(peer, b"30 100")
    peer.send(CONTROL, {"do": "resize", "columns": 50, "rows": 20})
    peer.send(DATA, b"stty size\n")
    read_until(peer, b"20 50")
    peer.send(DATA, b"echo begun; sleep 600; echo no\n")
    read_until(peer, b"begun\r\n")
    time.sleep(0.2)
    peer.send(DATA, b"\x03")
    read_until(peer, b"^C")
    peer.send(DATA, b"exit 3\n")
    frames = peer.until_end()
    assert frames[-1][0] == RESULT
    assert (frames[-1][1]["exit_code"], frames[-1][1]["signal"]) == (3, None)
    assert peer.do("ping").code is None


def test_without_a_program_it_is_the_shell(peer: Peer) -> None:
    begin(peer, argv=None)
    peer.send(DATA, b"echo $0 $((40+2)); exit\n")
    shown = read_until(peer, b" 42")
    assert b"sh" in shown
    peer.until_end()


def test_what_a_terminal_started_ends_with_it(supervisor: RunningSupervisor) -> None:
    with supervisor.connect() as peer:
        begin(peer)
        peer.send(DATA, b"setsid sleep 600 & sleep 600 & nohup sleep 600 & echo up\n")
        read_until(peer, b"up\r\n")
    assert eventually(lambda: not supervisor.descendants())


def test_a_program_that_does_not_read_is_left_alone(supervisor: RunningSupervisor) -> None:
    with supervisor.connect() as peer:
        begin(peer, argv=["/bin/sleep", "600"])
        peer.socket.settimeout(1)
        try:
            for _ in range(100):
                peer.send(DATA, b"x\n" * 50_000)
        except TimeoutError:
            pass
    assert eventually(lambda: not supervisor.descendants())


def test_output_without_end_is_kept_back(supervisor: RunningSupervisor, peer: Peer) -> None:
    with supervisor.connect() as flooding:
        begin(flooding, argv=["/bin/sh", "-c", "while :; do echo x; done"])
        time.sleep(0.5)
        assert peer.do("ping").code is None
        flooding.send(CONTROL, {"do": "cancel"})
        assert flooding.until_end()[-1][0] == RESULT


def test_bounds(supervisor: RunningSupervisor, peer: Peer) -> None:
    before = supervisor.open_files()
    for size in ({"columns": 0}, {"rows": 100_000}, {"columns": "x"}):
        assert peer.do("terminal", **{"columns": 80, "rows": 24, **size}).code == "bad_request"
    assert peer.do("terminal", columns=80, rows=24, argv=["/no/such"]).code == "not_found"
    assert supervisor.open_files() == before
    peers = [supervisor.connect() for _ in range(17)]
    for one in peers[:16]:
        begin(one, argv=["/bin/sleep", "600"])
    peers[16].request("terminal", columns=80, rows=24)
    kind, refusal = peers[16].receive()
    assert (kind, refusal["code"]) == (ERROR, "too_many")
    for one in peers:
        one.socket.close()
    assert eventually(lambda: supervisor.open_files() == before)
