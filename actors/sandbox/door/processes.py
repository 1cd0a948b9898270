"""Processes of a sandbox that outlive the call that started them: their list, their output, their end."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from actors.sandbox.door.exchange import Exchange
from actors.sandbox.door.fields import Fields, integer, maybe_text, number, objects, text, texts, truth
from actors.sandbox.door.lines import Lines
from actors.sandbox.door.refusals import words
from actors.sandbox.door.running import ExecResult, Output, exec_result
from actors.sandbox.door.wire import DATA, DATA2, RESULT
from serve_app.core.errors import NotFoundError, SandboxLostError

_MOST_PID = 2**31 - 1
_MOST_LISTED = 20_000
_MOST_ARGUMENT = 1000
_MOST_KEPT_BYTES = 256 * 1024
"""Of a detached process's output, as the protocol has it."""


@dataclass(frozen=True)
class Detached:
    """A process that goes on by itself. `process` is its name among those of this sandbox."""

    process: str
    pid: int


@dataclass(frozen=True)
class Process:
    """One process, as the sandbox tells it. `process`: it is this detached one."""

    pid: int
    ppid: int
    argv: tuple[str, ...]
    rss_bytes: int
    cpu_s: float
    state: str
    process: str | None


@dataclass(frozen=True)
class ListeningPort:
    """A TCP port somebody listens on."""

    port: int
    address: str
    pid: int | None


class Attached(Exchange):
    """The output of a detached process: the last that is kept, and with `follow` what comes, until it ends."""

    def __init__(self, lines: Lines, process: str, *, follow: bool) -> None:
        super().__init__(lines, {"op": "attach", "process": process, "follow": follow or None}, missing=NotFoundError)
        if follow:
            self.timeout_s = None
        self._bytes_left = None if follow else _MOST_KEPT_BYTES
        self._is_running: bool | None = None
        self._result: ExecResult | None = None

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        if self._is_running is not None:
            raise StopAsyncIteration
        kind, payload = await self.next()
        if kind in {DATA, DATA2}:
            self.count(payload)
            return Output("stdout" if kind == DATA else "stderr", payload)
        if kind != RESULT or self.fields is None:
            raise self.disorder()
        self._is_running = truth(self.fields, "running", default=False)
        if not self._is_running:
            self._result = exec_result({"duration_s": 0, **self.fields})
        raise StopAsyncIteration

    @property
    def result(self) -> ExecResult | None:
        """How it ended; None while it runs. There once the iteration has ended."""
        if self._is_running is None:
            raise SandboxLostError("The output has not been read to its end yet.")
        return self._result


def detached_from(fields: Fields) -> Detached:
    return Detached(text(fields, "process", 64), integer(fields, "pid", 1, _MOST_PID))


def processes_from(fields: Fields) -> list[Process]:
    return [
        Process(
            pid=integer(one, "pid", 1, _MOST_PID),
            ppid=integer(one, "ppid", 0, _MOST_PID),
            argv=tuple(words(part, _MOST_ARGUMENT) for part in texts(one, "argv", _MOST_LISTED)),
            rss_bytes=integer(one, "rss_bytes"),
            cpu_s=number(one, "cpu_s"),
            state=words(text(one, "state", 16)),
            process=maybe_text(one, "process", 64),
        )
        for one in objects(fields, "processes", _MOST_LISTED)
    ]


def ports_from(fields: Fields) -> list[ListeningPort]:
    return [
        ListeningPort(
            port=integer(one, "port", 1, 65535),
            address=words(text(one, "address", 64)),
            pid=None if one.get("pid") is None else integer(one, "pid", 1, _MOST_PID),
        )
        for one in objects(fields, "ports", _MOST_LISTED)
    ]
