"""Ports inside, ways to them, and the way out."""

import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.unit.actors.sandbox.inside.peer import CONTROL, RESULT, Peer, RunningSupervisor, eventually, python

ECHO = """
import socket
family = socket.AF_INET6 if __import__("sys").argv[1] == "::1" else socket.AF_INET
listener = socket.create_server((__import__("sys").argv[1], 0), family=family)
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    data = b""
    while piece := connection.recv(65536):
        data += piece
    connection.sendall(data[::-1])
    connection.close()
"""


@pytest.fixture
def outgoing() -> Iterator[RunningSupervisor]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = RunningSupervisor("--egress-port", str(port))
    running.egress_port = port  # type: ignore[attr-defined]  # only these tests want it
    yield running
    running.close()


def listening_port(peer: Peer, address: str) -> int:
    peer.request("exec", argv=python(ECHO, address))
    peer.receive()
    return int(peer.receive()[1])


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1"])  # noqa: S104 - what a program inside may do
def test_a_tunnel_carries_bytes_both_ways_with_half_close(supervisor: RunningSupervisor, address: str) -> None:
    with supervisor.connect() as server, supervisor.connect() as peer:
        port = listening_port(server, address)
        found = [entry for entry in peer.do("ports").result["ports"] if entry["port"] == port]
        assert [entry["address"] for entry in found] == [address]
        peer.request("tunnel", port=port)
        assert peer.receive() == (RESULT, {"raw": True})
        data = bytes(range(256)) * 20_000
        peer.socket.sendall(data)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.read(len(data)) == data[::-1]
        peer.expect_end()


def test_nothing_listens(peer: Peer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert peer.do("tunnel", port=probe.getsockname()[1]).code == "failed"
    assert peer.do("tunnel", port=0).code == "bad_request"
    assert peer.do("ping").code is None


def test_a_tunnel_ends_with_its_host(supervisor: RunningSupervisor) -> None:
    with supervisor.connect() as server:
        port = listening_port(server, "127.0.0.1")
        before = supervisor.open_files()
        for _ in range(5):
            with supervisor.connect() as peer:
                peer.request("tunnel", port=port)
                assert peer.receive()[0] == RESULT
        assert eventually(lambda: supervisor.open_files() == before)


def test_a_tunnel_to_a_program_that_never_says_anything_ends_too(supervisor: RunningSupervisor) -> None:
    code = """
import socket, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
print(connection.recv(100), flush=True)
time.sleep(600)
"""
    with supervisor.connect() as server:
        server.request("exec", argv=python(code))
        server.receive()
        port = int(server.receive()[1])
        before = supervisor.open_files()
        with supervisor.connect() as peer:
            peer.request("tunnel", port=port)
            assert peer.receive()[0] == RESULT
            peer.socket.sendall(b"last words")
        assert server.receive()[1] == b"b'last words'\n"
        assert eventually(lambda: supervisor.open_files() == before)


def test_without_egress_no_offer_is_taken(peer: Peer) -> None:
    assert peer.do("egress").code == "denied"


def inside_connects(running: RunningSupervisor) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.egress_port), timeout=20)  # type: ignore[attr-defined]  # the same


def test_programs_are_told_of_the_way_out(outgoing: RunningSupervisor) -> None:
    with outgoing.connect() as peer:
        answer = peer.shell("echo $HTTPS_PROXY $http_proxy")
        assert answer.out.split() == [f"http://127.0.0.1:{outgoing.egress_port}".encode()] * 2  # type: ignore[attr-defined]  # the same


def test_an_offer_is_for_one_connection(outgoing: RunningSupervisor) -> None:
    peers = [outgoing.connect(), outgoing.connect()]
    for peer in peers:
        peer.request("egress")
    with inside_connects(outgoing) as program:
        # Which of two connections is served first is nobody's promise.
        ready = select.select([peer.socket for peer in peers], [], [], 20)[0]
        taken, other = sorted(peers, key=lambda peer: peer.socket not in ready)
        assert taken.receive() == (RESULT, {"raw": True})
        program.sendall(b"CONNECT example.org:443 HTTP/1.1\r\n\r\n")
        assert taken.read(36).startswith(b"CONNECT")
        taken.socket.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        taken.socket.shutdown(socket.SHUT_WR)
        assert program.recv(100).startswith(b"HTTP/1.1 200")
        assert not program.recv(1)
    taken.expect_end()
    other.send(CONTROL, {"do": "cancel"})
    assert other.receive() == (RESULT, {"raw": False})
    assert other.do("ping").code is None
    for peer in peers:
        peer.socket.close()


def test_a_program_waits_for_an_offer_and_not_forever(outgoing: RunningSupervisor) -> None:
    ended: list[float] = []

    def wait_in_vain() -> None:
        started = time.monotonic()
        with inside_connects(outgoing) as program:
            assert not program.recv(1)
        ended.append(time.monotonic() - started)

    with inside_connects(outgoing) as lucky:
        time.sleep(0.1)
        with outgoing.connect() as peer:
            peer.request("egress")
            assert peer.receive() == (RESULT, {"raw": True})
            thread = threading.Thread(target=wait_in_vain)
            thread.start()
            lucky.sendall(b"x")
            assert peer.read(1) == b"x"
            thread.join(20)
    assert 8 < ended[0] < 13


def test_an_offer_taken_back_is_not_given(outgoing: RunningSupervisor) -> None:
    before = outgoing.open_files()
    for _ in range(3):
        with outgoing.connect() as gone:
            gone.request("egress")
            time.sleep(0.05)
    assert eventually(lambda: outgoing.open_files() <= before + 1)
    with inside_connects(outgoing) as program, outgoing.connect() as peer:
        peer.request("egress")
        assert peer.receive() == (RESULT, {"raw": True})
        program.sendall(b"y")
        assert peer.read(1) == b"y"
