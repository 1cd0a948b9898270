"""Children are waited for without asyncio's own watchers."""

import os
import signal
import subprocess

import pytest

from serve_app.embedded.children import Children


async def test_exit_codes_arrive() -> None:
    children = Children()
    assert await children.run(["sh", "-c", "exit 7"], timeout_s=5) == 7
    child = children.spawn(["sleep", "60"])
    assert child.is_alive
    assert await child.end(signal.SIGTERM, grace_s=5) == -signal.SIGTERM
    assert child.returncode == -signal.SIGTERM
    child.send(signal.SIGTERM)  # to one that is gone: nothing happens
    children.close()


async def test_a_child_that_takes_too_long_is_killed() -> None:
    children = Children()
    with pytest.raises(TimeoutError):
        await children.run(["sleep", "60"], timeout_s=0.05)
    children.close()


async def test_one_that_ignores_the_first_signal_gets_the_last() -> None:
    children = Children()
    child = children.spawn(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], stdout=subprocess.PIPE)
    assert child.popen is not None
    assert child.popen.stdout is not None
    child.popen.stdout.readline()
    assert await child.end(signal.SIGTERM, grace_s=0.1) == -signal.SIGKILL
    child.popen.stdout.close()
    children.close()


async def test_an_adopted_process_that_is_gone() -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    children = Children()
    child = children.adopt(done.pid)
    assert child.returncode == -1
    children.close()


async def test_a_missing_program_is_an_os_error() -> None:
    children = Children()
    with pytest.raises(FileNotFoundError):
        children.spawn([f"/no/such/program/{os.getpid()}"])
    children.close()
