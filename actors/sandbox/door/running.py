"""Programs in a sandbox, as they run: what they write, what they read, how they end."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from actors.sandbox.door.exchange import Exchange
from actors.sandbox.door.fields import Fields, integer, maybe_integer, number, truth
from actors.sandbox.door.lines import Lines
from actors.sandbox.door.wire import DATA, DATA2, RESULT
from serve_app.core.errors import InvalidRequestError, SandboxLostError

OUTPUT_BYTES = 1024 * 1024
_GRACE_S = 15.0
"""How much longer than its own time limit an operation may take until the sandbox is given up."""
_MOST_PID = 2**31 - 1
_MOST_SIGNAL = 64
_LARGEST_EXIT = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class ExecRequest:
    """A program by `argv`, or a line for the sandbox's shell. `output_bytes` bounds what is sent of its output."""

    argv: Sequence[str] = ()
    shell: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    timeout_s: float | None = None
    stdin: bool = False
    leave_running: bool = False
    output_bytes: int | None = None
    merge: bool = False

    def fields(self) -> dict[str, object]:
        """Raises `InvalidRequestError` unless it names exactly one thing to run."""
        if bool(self.argv) == (self.shell is not None):
            raise InvalidRequestError("Name what to run as argv or as shell, and not as both.")
        return {
            "op": "exec",
            "argv": list(self.argv) or None,
            "shell": self.shell,
            "cwd": self.cwd,
            "env": dict(self.env) if self.env else None,
            "timeout_s": self.timeout_s,
            "stdin": self.stdin or None,
            "leave_running": self.leave_running or None,
            "output_bytes": self.output_bytes,
            "merge": self.merge or None,
        }


class Started(NamedTuple):
    """The program runs. `pid` is its number inside."""

    pid: int


class Output(NamedTuple):
    """Some more of what it wrote, cut anywhere."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True)
class ExecResult:
    """How a program ended. `cut`: it wrote more than was asked for."""

    exit_code: int | None
    signal: int | None
    timed_out: bool
    cut: bool
    duration_s: float


@dataclass(frozen=True)
class Completed:
    """A program that has ended, and all it wrote, up to the bound."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    signal: int | None
    timed_out: bool
    cut: bool
    duration_s: float


class Running(Exchange):
    """A program that runs. Iterate it to its end, then take `result`; leaving it earlier kills the whole tree.

    A slow reader slows the program down: what is held for it is bounded.
    """

    def __init__(self, lines: Lines, request: ExecRequest) -> None:
        super().__init__(lines, request.fields())
        self._has_stdin = request.stdin
        self._limit_s = request.timeout_s
        self._bytes_left = request.output_bytes
        self._is_started = False
        self._result: ExecResult | None = None

    def __aiter__(self) -> AsyncIterator[Started | Output]:
        return self

    async def __anext__(self) -> Started | Output:
        if self._result is not None:
            raise StopAsyncIteration
        kind, payload = await self.next()
        if kind in {DATA, DATA2} and self._is_started:
            self.count(payload)
            return Output("stdout" if kind == DATA else "stderr", payload)
        if kind == RESULT and self._is_started and self.fields is not None:
            self._result = exec_result(self.fields)
            raise StopAsyncIteration
        if self._is_started:
            raise self.disorder()
        self._is_started = True
        self.timeout_s = None
        self.patience_s = None if self._limit_s is None else self._limit_s + _GRACE_S
        return Started(integer(self.expect_event(kind, payload, "started"), "pid", 1, _MOST_PID))

    @property
    def result(self) -> ExecResult:
        """There once the iteration has ended."""
        if self._result is None:
            raise SandboxLostError("The program has not ended yet.")
        return self._result

    async def wait(self) -> ExecResult:
        """Until it ends; what it still writes is dropped."""
        async for _ in self:
            continue
        return self.result

    async def write(self, data: bytes) -> None:
        """To its standard input; returns when there is room for more. One that has ended reads no more: dropped."""
        if not self._has_stdin:
            raise InvalidRequestError("This program was started without standard input.")
        await self.upload(data, None)

    def end_input(self) -> None:
        if self._has_stdin:
            self.end_upload()

    def signal(self, number: int) -> None:
        """To its process group."""
        self.control({"do": "signal", "signal": number})

    def cancel(self) -> None:
        """Kill the whole tree. The result still comes."""
        self.control({"do": "cancel"})


def exec_result(fields: Fields) -> ExecResult:
    return ExecResult(
        exit_code=maybe_integer(fields, "exit_code", -_MOST_SIGNAL, _LARGEST_EXIT),
        signal=maybe_integer(fields, "signal", 0, _MOST_SIGNAL),
        timed_out=truth(fields, "timed_out", default=False),
        cut=truth(fields, "cut", default=False),
        duration_s=number(fields, "duration_s"),
    )


async def run_to_end(lines: Lines, request: ExecRequest, stdin: bytes | None) -> Completed:
    """Both streams together are kept up to `request.output_bytes`, or 1 MiB."""
    if request.output_bytes is None:
        request = replace(request, output_bytes=OUTPUT_BYTES)
    # One array each: of output that comes byte by byte a list would hold many times its size.
    stdout, stderr = bytearray(), bytearray()
    async with Running(lines, request) as running, fed(running, stdin):
        async for piece in running:
            if isinstance(piece, Output):
                (stdout if piece.stream == "stdout" else stderr).extend(piece.data)
        result = running.result
    return Completed(
        stdout=bytes(stdout),
        stderr=bytes(stderr),
        exit_code=result.exit_code,
        signal=result.signal,
        timed_out=result.timed_out,
        cut=result.cut,
        duration_s=result.duration_s,
    )


@asynccontextmanager
async def fed(running: Running, stdin: bytes | None) -> AsyncIterator[None]:
    """Its input is written while its output is read: neither waits for the other."""
    if stdin is None:
        yield
        return
    feeding = asyncio.create_task(_feed(running, stdin), name="stdin")
    try:
        yield
    finally:
        feeding.cancel()
        # Why it could not be fed to the end is told by how the program's own stream ended.
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(running: Running, stdin: bytes) -> None:
    await running.write(stdin)
    running.end_input()
