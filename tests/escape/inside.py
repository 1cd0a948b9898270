"""Runs one attack where it is tried and tells its outcome; stands alone, because it is handed in as text.

`python3 -c <this> <world> <body>`: the world is JSON about what there is to attack, the body that of a function, which
finds everything here at hand.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl  # noqa: F401 - for bodies, as are the others marked so
import json
import os
import resource  # noqa: F401 - the same
import signal
import socket
import stat  # noqa: F401 - the same
import struct
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Word = int | bytes | ctypes.Array[ctypes.c_char]

w = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
OUTCOME = "OUTCOME "


def call(name: str, *arguments: Word) -> int:
    """A system call by its name. `ENOSYS` where this architecture has none."""
    if name not in w["calls"]:
        raise OSError(errno.ENOSYS, name)
    return call_number(w["calls"][name], *arguments)


def call_number(number: int, *arguments: Word) -> int:
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    words += [ctypes.c_long(0)] * (6 - len(words))
    result = libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), str(number))
    return int(result)


def packed(form: str, *values: int, size: int = 0) -> ctypes.Array[ctypes.c_char]:
    """A structure in memory, with zeros up to `size`."""
    raw = struct.pack(form, *values)
    return ctypes.create_string_buffer(raw, max(size, len(raw)))


def read(path: str, most: int = 65536) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - what pathlib imports takes longer than most attacks
        return file.read(most)


def write(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def show(data: bytes) -> None:
    """What was got goes home."""
    print(data.decode(errors="replace"), flush=True)


def connect(address: str | tuple[str, int], kind: int = socket.SOCK_STREAM) -> None:
    """A datagram needs no answer, so it must be sent to be refused."""
    inet = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    family = socket.AF_UNIX if isinstance(address, str) else inet
    with socket.socket(family, kind) as one:
        one.settimeout(2)
        one.connect(address)
        if kind == socket.SOCK_DGRAM:
            one.send(b"knock")


def child(does: Callable[[], object] | None = None) -> int:
    """A process of our own that sleeps, or does something."""
    pid = os.fork()
    if pid == 0:
        try:
            if does:
                does()
            else:
                time.sleep(10)
        finally:
            os._exit(0)
    return pid


def end(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def refusal(step: Callable[..., object], *arguments: object) -> str:
    """The name of the error a step ends with, or nothing."""
    try:
        step(*arguments)
    except OSError as exc:
        return name_of(exc)
    return ""


def name_of(exc: OSError) -> str:
    if isinstance(exc, socket.gaierror):
        return f"gaierror {exc.errno}"
    if exc.errno is None:
        return type(exc).__name__
    return errno.errorcode.get(exc.errno, str(exc.errno))


def main() -> None:
    names = dict(globals())
    exec("def attack():\n" + sys.argv[2], names)  # noqa: S102 - that is what it is for
    try:
        outcome = names["attack"]() or "done"
    except OSError as exc:
        outcome = name_of(exc)
    except (MemoryError, RuntimeError) as exc:
        outcome = type(exc).__name__
    print(OUTCOME + outcome, flush=True)


if __name__ == "__main__":
    main()
