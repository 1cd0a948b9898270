"""Recognising and ending processes, with real ones."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serve_app.embedded import processes

_PARENT = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def family() -> Iterator["subprocess.Popen[bytes]"]:
    environment = os.environ | {"AETHEROS_RUN_ID": "run-of-this-test"}
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        below = processes.descendants([parent.pid])
        yield parent
        for pid in (parent.pid, *below):
            if processes.start_ticks(pid) is not None:
                os.kill(pid, signal.SIGKILL)


def test_a_mark_fits_only_its_own_process() -> None:
    mark = processes.mark(os.getpid(), "me")
    assert mark is not None
    assert processes.is_alive(mark)
    assert not processes.is_alive(mark.model_copy(update={"start_ticks": mark.start_ticks + 1}))


def test_a_zombie_counts_as_gone() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.mark(child.pid) is None
    child.wait()


def test_descendants_and_carriers_are_found(family: "subprocess.Popen[bytes]") -> None:
    below = processes.descendants([family.pid])
    assert [processes.title(pid) for pid in below] == ["sleep 60"]
    assert processes.carrying("AETHEROS_RUN_ID", "run-of-this-test") == {family.pid, *below}
    assert processes.carrying("AETHEROS_RUN_ID", "run-of-this") == set()
    assert processes.rss_bytes(family.pid) > 1_000_000


def test_end_all_ends_exactly_what_it_is_given(family: "subprocess.Popen[bytes]") -> None:
    below = processes.descendants([family.pid])
    assert processes.end_all(lambda: processes.descendants([family.pid]), grace_s=2.0) == []
    assert all(processes.start_ticks(pid) is None for pid in below)
    assert processes.start_ticks(family.pid) is not None


def test_end_all_kills_what_ignores_sigterm() -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()
        assert processes.end_all(lambda: {deaf.pid}, grace_s=0.2) == []
        assert deaf.wait(5) == -signal.SIGKILL
