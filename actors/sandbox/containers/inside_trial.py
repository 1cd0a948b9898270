"""Runs once in a throw-away container of an image: compiles the supervisor there and tries every limit for real.

Only the standard library, because it runs under the image's Python. It writes what it found to `findings.json`, at the
end and before each step that may be its last.
"""

import compileall
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

_OUT = Path("/run/aether/out/findings.json")
_SUPERVISOR = "/run/aether/out/supervisor"
_TMP = "/tmp"  # noqa: S108 - the container's own
_OLDEST_PYTHON = (3, 11)
_TOO_OLD = 3
_MIB = 1024 * 1024
_BURN_S = 0.5
_AF_ALG = 38


def main() -> None:
    expected = json.loads(sys.argv[1])
    if sys.version_info < _OLDEST_PYTHON:
        sys.exit(_TOO_OLD)
    is_compiled = bool(compileall.compile_dir(_SUPERVISOR, quiet=2))
    findings: dict[str, object] = {
        "compiled": is_compiled,
        "tag": sys.implementation.cache_tag,
        "kernel": os.uname().release,
    }
    steps = (
        ("dial", lambda: _dial(expected["dial"])),
        ("root", _root_is_read_only),
        ("ls", lambda: os.spawnlp(os.P_WAIT, "ls", "ls", "/dev/null")),  # noqa: S606 - a program the image must have
        ("network", lambda: [name for _, name in socket.if_nameindex()]),
        ("system_calls", _crypto_socket),
        ("disk", lambda: _fill(Path("/work/fill"))),
        ("inodes", lambda: _until_refused(lambda number: _touch(f"{_TMP}/{number}"), 2 * expected["inodes"])),
        ("open_files", lambda: _until_refused(_open, 2 * expected["open_files"])),
        ("cpu", _burn),
        ("processes", lambda: _fork_until_refused(2 * expected["processes"])),
        ("memory", lambda: _allocate(expected["memory_bytes"])),
    )
    for name, step in steps:
        _write(findings | {"trying": name})
        try:
            findings[name] = step()
        except OSError as exc:
            findings[name] = errno.errorcode.get(exc.errno or 0, str(exc))
    _write(findings)


def _write(findings: dict[str, object]) -> None:
    new = _OUT.with_suffix(".new")
    new.write_text(json.dumps(findings), encoding="utf-8")
    new.replace(_OUT)


def _dial(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
    return "ok"


def _root_is_read_only() -> bool:
    try:
        _touch("/aether-trial")
    except OSError:
        return True
    return False


def _crypto_socket() -> str:
    """A kind of socket that every ordinary container may make, and a sandbox may not."""
    with socket.socket(_AF_ALG, socket.SOCK_SEQPACKET):
        return "ok"


def _fill(path: Path) -> int:
    """How many bytes fit."""
    written, chunk = 0, b"x" * 65536
    with path.open("wb", buffering=0) as file:
        try:
            while written < 256 * _MIB:
                written += file.write(chunk)
        except OSError:
            pass
    path.unlink()
    return written


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))


def _open(_: int) -> None:
    os.open("/dev/null", os.O_RDONLY)


def _until_refused(step: Callable[[int], None], most: int) -> int:
    done = 0
    try:
        while done < most:
            step(done)
            done += 1
    except OSError:
        pass
    os.closerange(3, 4096)
    return done


def _fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def _burn() -> float:
    """How many cores two busy processes get together."""
    before = os.times()
    for child in [_fork(_spin), _fork(_spin)]:
        os.waitpid(child, 0)
    after = os.times()
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    return used_s / _BURN_S


def _spin() -> None:
    end = time.monotonic() + _BURN_S
    while time.monotonic() < end:
        pass


def _fork_until_refused(most: int) -> int:
    children: list[int] = []
    try:
        while len(children) < most:
            children.append(_fork(signal.pause))
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    return len(children)


def _allocate(limit_bytes: int) -> str:
    """Where the kernel kills the whole container, what was written before tells how far it came."""
    _, status = os.waitpid(_fork(lambda: _hold(3 * limit_bytes)), 0)
    return "killed" if os.WIFSIGNALED(status) else "allocated"


def _hold(size_bytes: int) -> None:
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    try:
        # Every page is written to: memory that is only asked for costs nothing.
        bytearray(size_bytes)[::4096] = b"x" * -(-size_bytes // 4096)
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
