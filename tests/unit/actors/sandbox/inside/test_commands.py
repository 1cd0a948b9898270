"""Programs run by the host: what they get, what they give, and that nothing of them survives."""

import signal
import time
from pathlib import Path

import pytest

from tests.unit.actors.sandbox.inside.peer import (
    CONTROL,
    DATA,
    DATA2,
    END,
    Peer,
    RunningSupervisor,
    eventually,
    is_alive,
    python,
)

# Leaves its session, its parent and its process group, twice, and says which process it is then.
ESCAPEE = """
import os, sys, time
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""


def pid_in(path: Path) -> int:
    assert eventually(lambda: path.exists() and path.read_text().isdigit())
    return int(path.read_text())


def test_streams_and_exit_code(peer: Peer) -> None:
    answer = peer.shell("echo out; echo err >&2; exit 3")
    assert (answer.out, answer.err, answer.result["exit_code"], answer.result["signal"]) == (
        b"out\n",
        b"err\n",
        3,
        None,
    )
    assert answer.events[0]["event"] == "started"
    assert answer.result["duration_s"] > 0
    assert not answer.result["cut"]


def test_merged_streams_keep_their_order(peer: Peer) -> None:
    answer = peer.shell("echo 1; echo 2 >&2; echo 3", merge=True)
    assert (answer.out, answer.err) == (b"1\n2\n3\n", b"")


def test_a_signal_is_no_exit_code(peer: Peer) -> None:
    answer = peer.shell("kill -TERM $$")
    assert (answer.result["exit_code"], answer.result["signal"]) == (None, signal.SIGTERM)


def test_input_is_passed_on_and_ended(peer: Peer) -> None:
    peer.request("exec", argv=["cat"], stdin=True)
    for piece in (b"a" * 1000, b"b"):
        peer.send(DATA, piece)
    peer.send(END)
    frames = peer.until_end()
    assert b"".join(payload for kind, payload in frames if kind == DATA) == b"a" * 1000 + b"b"
    assert peer.do("exec", argv=["cat"]).result["exit_code"] == 0, "without stdin it reads from /dev/null"


def test_much_input_for_a_program_that_reads_none(peer: Peer) -> None:
    peer.request("exec", argv=["true"], stdin=True)
    for _ in range(8):
        peer.send(DATA, b"x" * (1 << 20))
    peer.send(END)
    assert peer.until_end()[-1][1]["exit_code"] == 0
    assert peer.do("ping").code is None, "what came late belongs to no operation"


def test_folder_and_environment(peer: Peer, supervisor: RunningSupervisor) -> None:
    (supervisor.roots["work"] / "sub").mkdir()
    answer = peer.shell("pwd; echo $HOME $NEW $LANG", cwd="sub", env={"NEW": "x=y"})
    assert answer.out.decode().split() == [
        str(supervisor.roots["work"] / "sub"),
        str(supervisor.roots["home"]),
        "x=y",
        "C.UTF-8",
    ]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"argv": ["no-such-program"]}, "not_found"),
        ({"argv": ["/no/such/program"]}, "not_found"),
        ({"argv": ["/etc/passwd"]}, "denied"),
        ({"argv": ["/bin"]}, "denied"),
        ({"argv": []}, "bad_request"),
        ({"argv": "true"}, "bad_request"),
        ({"argv": ["a\0b"]}, "bad_request"),
        ({"argv": ["true"], "shell": "true"}, "bad_request"),
        ({}, "bad_request"),
        ({"argv": ["true"], "cwd": "gone"}, "not_found"),
        ({"argv": ["true"], "cwd": "/etc/passwd"}, "not_a_directory"),
        ({"argv": ["true"], "env": {"A=B": "c"}}, "bad_request"),
        ({"argv": ["true"], "timeout_s": -1}, "bad_request"),
        ({"argv": ["true"], "stdin": 1}, "bad_request"),
    ],
)
def test_what_cannot_run_is_refused_and_the_connection_lives(peer: Peer, fields: dict[str, object], code: str) -> None:
    assert peer.do("exec", **fields).code == code
    assert peer.do("exec", argv=["true"]).result["exit_code"] == 0


def test_a_script_without_an_interpreter_is_run_by_a_shell(peer: Peer, supervisor: RunningSupervisor) -> None:
    script = supervisor.roots["work"] / "script"
    script.write_text("echo ran $1\n")
    script.chmod(0o755)
    assert peer.do("exec", argv=["./script", "it"]).out == b"ran it\n"


def test_arguments_that_are_no_utf8(peer: Peer) -> None:
    assert peer.do("exec", argv=["printf", "%s", "\udcff\udc80"]).out == b"\xff\x80"


def test_a_program_starts_with_nothing_but_its_streams(peer: Peer) -> None:
    code = """
import os
print(sorted(map(int, os.listdir("/proc/self/fd")))[:-1], os.getsid(0) == os.getpid() == os.getpgrp())
print(open("/proc/self/oom_score_adj").read().strip())
"""
    assert peer.do("exec", argv=python(code)).out.decode().splitlines() == ["[0, 1, 2] True", "500"]
    answer = peer.do("exec", argv=["grep", "-E", "SigBlk|SigIgn|Umask", "/proc/self/status"])
    status = dict(line.split(":\t") for line in answer.out.decode().splitlines())
    # 32 and 33 are the C library's own: it hands them on ignored.
    ignored = int(status["SigIgn"], 16) & ~(1 << 31 | 1 << 32)
    assert (status["Umask"], int(status["SigBlk"], 16), ignored) == ("0022", 0, 0)


def test_an_own_score_stays_below_that_of_programs(peer: Peer, supervisor: RunningSupervisor) -> None:
    peer.do("exec", argv=["true"])
    assert Path(f"/proc/{supervisor.pid}/oom_score_adj").read_text() == "0\n"


def test_time_is_up(peer: Peer) -> None:
    answer = peer.shell("trap '' TERM INT; echo on; sleep 600", timeout_s=0.3)
    assert answer.result["timed_out"]
    assert (answer.out, answer.result["exit_code"], answer.result["signal"]) == (b"on\n", None, signal.SIGKILL)
    assert 0.3 <= answer.result["duration_s"] < 5


def test_time_is_up_while_the_host_does_not_read(peer: Peer, supervisor: RunningSupervisor) -> None:
    peer.request("exec", argv=["cat", "/dev/zero"], timeout_s=0.5)
    time.sleep(0.2)
    assert supervisor.descendants()
    assert eventually(lambda: not supervisor.descendants(), 5)
    assert peer.until_end()[-1][1]["timed_out"]


def test_a_flood_nobody_reads_takes_no_memory(peer: Peer, supervisor: RunningSupervisor) -> None:
    peer.request("exec", argv=["cat", "/dev/zero"])
    time.sleep(0.5)
    resident = next(line for line in Path(f"/proc/{supervisor.pid}/status").read_text().splitlines() if "VmRSS" in line)
    assert int(resident.split()[1]) < 20_000
    peer.send(CONTROL, {"do": "cancel"})
    assert peer.until_end()[-1][1]["signal"] == signal.SIGKILL


def test_output_beyond_its_bound_is_dropped(peer: Peer) -> None:
    answer = peer.shell("head -c 3000000 /dev/zero; echo never >&2; exit 4", output_bytes=100_000)
    assert (len(answer.out), answer.err, answer.result["cut"], answer.result["exit_code"]) == (100_000, b"", True, 4)
    assert not peer.shell("printf 12345", output_bytes=5).result["cut"]


def test_a_program_that_closes_its_output_lives_on(peer: Peer) -> None:
    answer = peer.shell("exec >&- 2>&-; sleep 0.3; exit 5")
    assert answer.result["exit_code"] == 5
    assert answer.result["duration_s"] > 0.3


def test_signals_reach_the_process_group(peer: Peer) -> None:
    peer.begin_shell("trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    assert [peer.receive()[0], peer.receive()[1]] == [6, b"ready\n"]
    peer.send(CONTROL, {"do": "signal", "signal": int(signal.SIGUSR1)})
    frames = peer.until_end()
    assert b"got\n" in [payload for kind, payload in frames if kind == DATA]
    assert frames[-1][1]["exit_code"] == 7


def test_the_end_does_not_wait_for_who_holds_the_pipe(peer: Peer, supervisor: RunningSupervisor) -> None:
    answer = peer.shell("sleep 600 & echo $!; exit 0")
    assert answer.result["exit_code"] == 0
    assert not is_alive(int(answer.out))
    assert eventually(lambda: not supervisor.descendants())


@pytest.mark.parametrize("way", ["end", "cancel", "close", "timeout"])
def test_escapees_die(supervisor: RunningSupervisor, way: str) -> None:
    path = supervisor.roots["tmp"] / "pid"
    with supervisor.connect() as peer:
        command = " ".join(f"'{word}'" for word in python(ESCAPEE, str(path)))
        waits = "while ! [ -s $0 ]; do sleep 0.01; done" if way == "end" else "sleep 600"
        peer.request(
            "exec", argv=["sh", "-c", f"{command} & {waits}", str(path)], timeout_s=1 if way == "timeout" else 60
        )
        pid = pid_in(path)
        if way == "cancel":
            peer.send(CONTROL, {"do": "cancel"})
        if way != "close":
            assert peer.until_end()[-1][1]["timed_out"] == (way == "timeout")
            assert not is_alive(pid)
    assert eventually(lambda: not is_alive(pid))
    assert eventually(lambda: not supervisor.descendants())


def test_what_may_live_on_does_and_may_go_on_writing(peer: Peer, supervisor: RunningSupervisor) -> None:
    code = """
import sys, time
for _ in range(40):
    sys.stdout.write("x" * 100_000); sys.stdout.flush()
open(sys.argv[1], "w").write("done")
time.sleep(600)
"""
    path = supervisor.roots["tmp"] / "done"
    answer = peer.do("exec", argv=["sh", "-c", '"$@" & echo $!', "sh", *python(code, str(path))], leave_running=True)
    assert answer.result["exit_code"] == 0
    pid = int(answer.out.splitlines()[0])
    assert eventually(lambda: path.exists() and path.read_text() == "done")
    assert is_alive(pid)
    assert peer.do("kill", pid=pid).code is None
    assert eventually(lambda: not supervisor.descendants())


def test_who_lives_on_takes_no_output_away(peer: Peer) -> None:
    for number in range(50):
        answer = peer.shell(f"sleep 0.3 & printf '%0100000d' {number}", leave_running=True)
        assert answer.out == b"%0100000d" % number


def test_a_program_that_kills_its_keeper_leaves_nobody(peer: Peer, supervisor: RunningSupervisor) -> None:
    path = supervisor.roots["tmp"] / "pid"
    answer = peer.do("exec", argv=["sh", "-c", '"$@" & while ! [ -s "$0" ]; do sleep 0.01; done; kill -9 $PPID; sleep 600',
                                   str(path), *python(ESCAPEE, str(path))])  # fmt: skip
    assert (answer.result["exit_code"], answer.result["signal"]) == (None, signal.SIGKILL)
    assert eventually(lambda: not is_alive(pid_in(path)), 3)
    assert eventually(lambda: not supervisor.descendants(), 3)


def test_a_program_that_stops_its_keeper_does_not_hold_up_its_end(peer: Peer) -> None:
    answer = peer.shell("kill -STOP $PPID; exit 6")
    assert answer.result["exit_code"] == 6
    assert answer.result["duration_s"] < 5


BOMBS = {
    "same group": "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.001)\n",
    "own sessions": (
        "import os, time\nwhile True:\n    try:\n        if not os.fork(): os.setsid()\n"
        "    except OSError: time.sleep(0.001)\n"
    ),
    "one that hops": "import os\nwhile True:\n    if os.fork(): os._exit(0)\n    os.setsid()\n",
    "they wake each other": (
        "import os, signal, time\nfor _ in range(4):\n    os.fork()\nos.setsid() if os.getpid() != os.getsid(0) else 0\n"
        "mine = int(open('/proc/self/stat').read().rpartition(')')[2].split()[1])\n"
        "while True:\n"
        "    for pid in range(os.getpid() - 40, os.getpid() + 40):\n"
        "        try: os.kill(pid, signal.SIGCONT)\n        except OSError: pass\n"
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end(peer: Peer, supervisor: RunningSupervisor, name: str) -> None:
    # Root has no limit, so there the bomb becomes somebody else.
    limited = "import os, resource, signal, time\nif not os.getuid(): os.setgid(54321), os.setuid(54321)\n"
    limited += "resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))\n"
    answer = peer.do("exec", argv=python(limited + BOMBS[name]), timeout_s=1.0)
    if name != "one that hops":
        assert answer.result["timed_out"]
    assert eventually(lambda: not supervisor.descendants(), 5)
    assert peer.do("ping").code is None


def test_a_thousand_programs_leave_nothing(peer: Peer, supervisor: RunningSupervisor) -> None:
    peer.do("exec", argv=["true"])
    before = supervisor.open_files()
    for number in range(1000):
        assert peer.shell(f"exit {number % 7}").result["exit_code"] == number % 7
    assert supervisor.open_files() == before
    assert eventually(lambda: not supervisor.descendants())


def test_many_programs_at_once(supervisor: RunningSupervisor) -> None:
    peers = [supervisor.connect() for _ in range(100)]
    for number, peer in enumerate(peers):
        peer.begin_shell(f"sleep 0.2; echo {number}; echo {number} >&2")
    for number, peer in enumerate(peers):
        frames = peer.until_end()
        assert [payload for kind, payload in frames if kind in {DATA, DATA2}] == [f"{number}\n".encode()] * 2
        peer.socket.close()
    assert eventually(lambda: not supervisor.descendants())
    assert eventually(lambda: supervisor.open_files() < 20)


def test_output_that_waited_for_the_host_is_not_overwritten(peer: Peer) -> None:
    data = b"".join(b"%07d\n" % number for number in range(120_000))
    code = "import sys\nsys.stdout.write(''.join(f'{n:07}\\n' for n in range(120_000)))"
    peer.request("exec", argv=python(code))
    time.sleep(0.5)
    assert b"".join(payload for kind, payload in peer.until_end() if kind == DATA) == data


def test_a_large_output_arrives_whole(peer: Peer) -> None:
    answer = peer.do("exec", argv=python("import sys\nfor n in range(3000): sys.stdout.write(f'{n:06}' * 1000)"))
    assert answer.out == b"".join(b"%06d" % number * 1000 for number in range(3000))
