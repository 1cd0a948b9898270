"""Servers run beside a test or a measurement: started, waited for, and ended with everything they started."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    port: int,
    log: Path,
    env: Mapping[str, str] | None = None,
    ready_s: float = 60.0,
) -> Iterator["subprocess.Popen[bytes]"]:
    """The process, once `port` accepts connections.

    Raises:
        AssertionError: it ended or was not ready in time; with the end of its log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command], stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    try:
        _wait(process, port, log, time.monotonic() + ready_s)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path, deadline: float) -> None:
    while True:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"{process.args!r} did not start (exit {process.poll()}):\n{said}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
