"""A terminal in a sandbox: bytes both ways, a size, an end."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from actors.sandbox.door.exchange import Exchange
from actors.sandbox.door.fields import integer
from actors.sandbox.door.lines import Lines
from actors.sandbox.door.running import ExecResult, exec_result
from actors.sandbox.door.wire import DATA, RESULT
from serve_app.core.errors import SandboxLostError


@dataclass(frozen=True, kw_only=True)
class TerminalRequest:
    """Without `argv` it is the sandbox's own shell."""

    columns: int = 80
    rows: int = 24
    argv: Sequence[str] = ()
    cwd: str | None = None
    env: Mapping[str, str] | None = None

    def fields(self) -> dict[str, object]:
        return {
            "op": "terminal",
            "argv": list(self.argv) or None,
            "cwd": self.cwd,
            "env": dict(self.env) if self.env else None,
            "columns": self.columns,
            "rows": self.rows,
        }


class Terminal(Exchange):
    """Iterate it for what it shows. Leaving it kills everything that was started in it."""

    def __init__(self, lines: Lines, request: TerminalRequest) -> None:
        super().__init__(lines, request.fields())
        self.pid: int | None = None
        self._result: ExecResult | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def begin(self) -> None:
        """Until it runs; `pid` is there then. Iterating does so as well."""
        if self.pid is None:
            self.pid = integer(await self.event("started"), "pid", 1, 2**31 - 1)
            self.timeout_s = None

    @property
    def has_ended(self) -> bool:
        """It has been iterated to its end, and `result` is there."""
        return self._result is not None

    async def __anext__(self) -> bytes:
        if self._result is not None:
            raise StopAsyncIteration
        await self.begin()
        kind, payload = await self.next()
        if kind == RESULT and self.fields is not None:
            self._result = exec_result({"duration_s": 0, **self.fields})
            raise StopAsyncIteration
        if kind != DATA:
            raise self.disorder()
        return payload

    async def write(self, data: bytes) -> None:
        """What is typed. Returns when there is room for more."""
        await self.upload(data, None)

    def resize(self, columns: int, rows: int) -> None:
        self.control({"do": "resize", "columns": columns, "rows": rows})

    @property
    def result(self) -> ExecResult:
        """There once the iteration has ended."""
        if self._result is None:
            raise SandboxLostError("The terminal has not ended yet.")
        return self._result
