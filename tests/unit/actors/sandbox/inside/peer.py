"""The real supervisor as a child process, and a host that speaks its protocol byte by byte."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FOLDER = Path(__file__).parents[5] / "actors/sandbox/inside"
TOKEN = "0123456789abcdef" * 2
HELLO, REQUEST, DATA, DATA2, END, EVENT, RESULT, ERROR, CONTROL = range(1, 10)
_JSON = {HELLO, REQUEST, EVENT, RESULT, ERROR, CONTROL}


def frame(kind: int, payload: bytes | dict[str, object] = b"") -> bytes:
    raw = json.dumps(payload).encode() if isinstance(payload, dict) else payload
    return struct.pack(">IB", len(raw), kind) + raw


class Peer:
    """One connection of the host."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(60)
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def send(self, kind: int, payload: bytes | dict[str, object] = b"") -> None:
        self.socket.sendall(frame(kind, payload))

    def request(self, op: str, **fields: object) -> None:
        self.send(REQUEST, {"op": op, **fields})

    def receive(self) -> tuple[int, Any]:
        """Kind and payload; JSON decoded. `EOFError` at the end."""
        header = self.read(5)
        length, kind = struct.unpack(">IB", header)
        payload = self.read(length)
        return kind, json.loads(payload) if kind in _JSON else payload

    def read(self, size: int) -> bytes:
        while len(self._received) < size:
            chunk = self.socket.recv(1 << 20)
            if not chunk:
                raise EOFError
            self._received += chunk
        found = bytes(self._received[:size])
        del self._received[:size]
        return found

    def until_end(self) -> list[tuple[int, Any]]:
        """All frames up to `RESULT` or `ERROR`."""
        frames = [self.receive()]
        while frames[-1][0] not in {RESULT, ERROR}:
            frames.append(self.receive())
        return frames

    def do(self, op: str, **fields: object) -> "Answer":
        self.request(op, **fields)
        return Answer(self.until_end())

    def begin_shell(self, text: str, **fields: object) -> None:
        self.send(REQUEST, {"op": "exec", "shell": text, **fields})

    def shell(self, text: str, **fields: object) -> "Answer":
        self.begin_shell(text, **fields)
        return Answer(self.until_end())

    def expect_end(self) -> None:
        """The other side has closed."""
        try:
            rest = self._received or self.socket.recv(1)
        except ConnectionResetError:
            return
        assert not rest


class Answer:
    """What one operation gave."""

    def __init__(self, frames: list[tuple[int, Any]]) -> None:
        self.kind, self.result = frames[-1]
        self.out = b"".join(payload for kind, payload in frames if kind == DATA)
        self.err = b"".join(payload for kind, payload in frames if kind == DATA2)
        self.events = [payload for kind, payload in frames if kind == EVENT]

    @property
    def code(self) -> str | None:
        """Of the `ERROR`; None when it went well."""
        return str(self.result["code"]) if self.kind == ERROR else None


class RunningSupervisor:
    """Its folders are below `folder`, which `close` removes; `close` also fails when a process was left behind."""

    def __init__(self, *arguments: str, dial: str | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aet-", dir="/tmp"))
        self.roots = {name: self.folder / name for name in ("work", "tmp", "home")}
        for root in self.roots.values():
            root.mkdir()
        self.door = str(self.folder / "door")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.door)
        listener.listen(256)
        token_fd, writing = os.pipe()
        os.write(writing, TOKEN.encode())
        os.close(writing)
        door = ["--dial", dial] if dial else ["--listen-fd", str(listener.fileno())]
        roots = [word for name, path in self.roots.items() for word in ("--root", f"{name}={path}")]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(FOLDER), *door, "--token-fd", str(token_fd), *roots, *arguments],
            pass_fds=(listener.fileno(), token_fd),
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        )
        os.close(token_fd)
        listener.close()
        if not dial:
            # Only then all of it is there: what a test counts must not change any more.
            with self.connect() as peer:
                assert peer.do("ping").code is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self, token: str = TOKEN) -> Peer:
        peer = self.dial()
        peer.send(HELLO, {"version": 1, "token": token})
        return peer

    def dial(self) -> Peer:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.door)
        return Peer(connection)

    def descendants(self) -> set[int]:
        return set(_below(self.pid))

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def close(self) -> None:
        left = self.descendants()
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            for pid in left:
                assert not is_alive(pid), f"{pid} outlived its sandbox"
            shutil.rmtree(self.folder)


def _below(pid: int) -> Iterable[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text("utf-8", "replace")
            except OSError:
                continue
            parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    pending = [pid]
    while pending:
        for child in parents.get(pending.pop(), ()):
            yield child
            pending.append(child)


def is_alive(pid: int) -> bool:
    """Not gone and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(claim: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def python(code: str, *arguments: str) -> Sequence[str]:
    """The command line of a small program."""
    return [sys.executable, "-I", "-S", "-c", code, *arguments]
