"""Processes that need no connection, and the list of all."""

import signal
import time

from tests.unit.actors.sandbox.inside.peer import (
    CONTROL,
    DATA,
    Peer,
    RunningSupervisor,
    eventually,
    is_alive,
    python,
)


def test_a_detached_process_keeps_its_output(supervisor: RunningSupervisor) -> None:
    with supervisor.connect() as peer:
        started = peer.shell("echo out; echo err >&2; sleep 0.2; exit 4", detach=True).result
    with supervisor.connect() as peer:
        answer = peer.do("attach", process=started["process"], follow=True)
        assert answer.out == b"out\nerr\n"
        result = answer.result
        assert (result["exit_code"], result["signal"], result["running"], result["cut"]) == (4, None, False, False)
        assert peer.do("attach", process=started["process"]).out == b"out\nerr\n"


def test_only_the_end_of_much_output_is_kept(peer: Peer) -> None:
    code = "import sys\nfor n in range(100_000): sys.stdout.write(f'{n:09}\\n')"
    name = peer.do("exec", argv=python(code), detach=True).result["process"]
    assert eventually(lambda: not peer.do("attach", process=name).result["running"])
    answer = peer.do("attach", process=name)
    assert len(answer.out) == 256 * 1024
    assert answer.out.endswith(b"000099999\n")
    assert answer.result["cut"]


def test_following_shows_what_comes(peer: Peer, supervisor: RunningSupervisor) -> None:
    name = peer.shell("while ! [ -e go ]; do sleep 0.01; done; echo went; sleep 600", detach=True).result["process"]
    assert peer.do("attach", process=name).result["running"]
    with supervisor.connect() as follower:
        follower.request("attach", process=name, follow=True)
        (supervisor.roots["work"] / "go").touch()
        assert follower.receive() == (DATA, b"went\n")
        follower.send(CONTROL, {"do": "cancel"})
        assert follower.until_end()[-1][1]["running"]
        follower.request("attach", process=name, follow=True)
        assert follower.receive() == (DATA, b"went\n")
        assert peer.do("kill", process=name).code is None
        assert follower.until_end()[-1][1]["signal"] == signal.SIGKILL
    assert eventually(lambda: not supervisor.descendants())


def test_a_detached_process_dies_with_its_tree(peer: Peer, supervisor: RunningSupervisor) -> None:
    name = peer.shell("setsid sh -c 'sleep 600 & sleep 600' & sleep 600", detach=True).result["process"]
    assert eventually(lambda: len(peer.do("processes").result["processes"]) == 5)
    assert {entry.get("process") for entry in peer.do("processes").result["processes"]} == {name}
    peer.do("kill", process=name)
    assert eventually(lambda: not supervisor.descendants())


def test_other_signals_reach_a_detached_process(peer: Peer) -> None:
    name = peer.shell("trap 'exit 3' TERM; while :; do sleep 0.01; done", detach=True).result["process"]
    time.sleep(0.2)
    peer.do("kill", process=name, signal=15)
    assert peer.do("attach", process=name, follow=True).result["exit_code"] == 3


def test_its_time_is_up(peer: Peer) -> None:
    name = peer.do("exec", argv=["sleep", "600"], detach=True, timeout_s=0.2).result["process"]
    result = peer.do("attach", process=name, follow=True).result
    assert (result["timed_out"], result["signal"], result["exit_code"]) == (True, signal.SIGKILL, None)


def test_not_more_than_32(peer: Peer, supervisor: RunningSupervisor) -> None:
    names = [peer.do("exec", argv=["sleep", "600"], detach=True).result["process"] for _ in range(32)]
    assert peer.do("exec", argv=["sleep", "600"], detach=True).code == "too_many"
    for name in names:
        peer.do("kill", process=name)
    assert eventually(lambda: not supervisor.descendants())
    assert eventually(lambda: supervisor.open_files() < 15)
    for _ in range(40):
        name = peer.do("exec", argv=["true"], detach=True).result["process"]
        peer.do("attach", process=name, follow=True)
    assert peer.do("attach", process=names[0]).code == "not_found"
    assert peer.do("attach", process=name).code is None


def test_what_cannot_start_is_refused(peer: Peer, supervisor: RunningSupervisor) -> None:
    assert peer.do("ping").code is None
    before = supervisor.open_files()
    for _ in range(10):
        assert peer.do("exec", argv=["/etc/passwd"], detach=True).code == "denied"
    assert eventually(lambda: supervisor.open_files() <= before)


def test_the_list(peer: Peer, supervisor: RunningSupervisor) -> None:
    with supervisor.connect() as other:
        other.request("exec", argv=["sleep", "600"])
        pid = other.receive()[1]["pid"]
        (entry,) = peer.do("processes").result["processes"]
        assert (entry["pid"], entry["argv"], entry["state"]) == (pid, ["sleep", "600"], "S")
        assert entry["rss_bytes"] > 0
        assert "process" not in entry
        for other_pid in (supervisor.pid, entry["ppid"], 1):
            assert peer.do("kill", pid=other_pid).code == "not_found", "not the supervisor, no keeper, nobody outside"
        peer.do("kill", pid=pid)
        assert other.until_end()[-1][1]["signal"] == 9
    assert not is_alive(pid)


def test_a_list_that_is_long_fits_its_frame(peer: Peer, supervisor: RunningSupervisor) -> None:
    argument = "\u00fc" * 5000
    peer.do(
        "exec", argv=["sh", "-c", 'for n in $(seq 300); do sh -c "sleep 600; true" "$0" & done', argument], detach=True
    )
    name = "p1"
    assert eventually(lambda: len(supervisor.descendants()) >= 2)
    assert peer.do("processes").code is None
    peer.do("kill", process=name)
    assert eventually(lambda: not supervisor.descendants(), 20)
