"""The host's side of one sandbox: everything that can be asked of its supervisor, typed and bounded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.sandbox.door.cells import CellRequest, Interpreter, RunningCell
from actors.sandbox.door.dialling import Dial
from actors.sandbox.door.duplex import Duplex
from actors.sandbox.door.exchange import ask, turn_raw
from actors.sandbox.door.fields import integer, number
from actors.sandbox.door.files import FileCalls
from actors.sandbox.door.lines import Lines
from actors.sandbox.door.processes import (
    Attached,
    Detached,
    ListeningPort,
    Process,
    detached_from,
    ports_from,
    processes_from,
)
from actors.sandbox.door.running import Completed, ExecRequest, Running, run_to_end
from actors.sandbox.door.terminal import Terminal, TerminalRequest
from serve_app.core.errors import NotFoundError

_SIGKILL = 9


@dataclass(frozen=True)
class Uses:
    """What a sandbox says it uses, and for how long nothing was asked of it. The sandbox may lie."""

    processes: int
    rss_bytes: int
    disk_bytes: int
    inodes: int
    idle_s: float


@dataclass(frozen=True)
class Pong:
    """A supervisor that answers."""

    uptime_s: float
    connections: int


class SandboxClient(FileCalls):
    """Many calls at a time, each on a connection of its own, at most `most_connections`. Close it when done.

    Nothing that comes from inside is trusted: whatever is longer, of another form or in another order than
    docs/sandbox-protocol.md has it ends the call with `SandboxProtocolError`. Every call may also raise
    `SandboxLostError` (the sandbox or its lease is gone), `TimedOutError` (it is silent) and `OverloadedError`.
    """

    def __init__(self, dial: Dial, token: str, *, most_connections: int = 32, answer_timeout_s: float = 30.0) -> None:
        super().__init__(Lines(dial, token, most=most_connections, answer_timeout_s=answer_timeout_s))

    @property
    def is_busy(self) -> bool:
        """Something is under way."""
        return self._lines.busy > 0

    @property
    def is_lost(self) -> bool:
        """It is of no more use: the sandbox is gone, the lease has passed on, or the protocol was broken."""
        return self._lines.is_lost

    @property
    def losses(self) -> int:
        """How many connections ended that nobody here had ended. When there are more of them, the sandbox may be gone."""
        return self._lines.losses

    async def close(self) -> None:
        """Ends every connection, and so cancels whatever is under way inside."""
        await self._lines.close()

    # --- programs ---

    def exec(self, request: ExecRequest) -> Running:
        """An async context manager: a program that runs."""
        return Running(self._lines, request)

    async def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        stdin: bytes | None = None,
        output_bytes: int = 1024 * 1024,
        merge: bool = False,
    ) -> Completed:
        """Run a program (a sequence) or a line for the shell (text) to its end."""
        request = ExecRequest(
            argv=() if isinstance(command, str) else command,
            shell=command if isinstance(command, str) else None,
            cwd=cwd,
            env=env,
            timeout_s=timeout_s,
            stdin=stdin is not None,
            output_bytes=output_bytes,
            merge=merge,
        )
        return await run_to_end(self._lines, request, stdin)

    async def start(
        self, command: str | Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> Detached:
        """Start a program that goes on by itself. Raises `OverloadedError` when there are too many."""
        request = ExecRequest(
            argv=() if isinstance(command, str) else command,
            shell=command if isinstance(command, str) else None,
            cwd=cwd,
            env=env,
        )
        return detached_from(await ask(self._lines, {**request.fields(), "detach": True}))

    def attach(self, process: str, *, follow: bool = False) -> Attached:
        """An async context manager: what a detached program wrote, and with `follow` what it writes."""
        return Attached(self._lines, process, follow=follow)

    async def processes(self) -> list[Process]:
        return processes_from(await ask(self._lines, {"op": "processes"}))

    async def kill(self, target: str | int, signal: int = _SIGKILL) -> None:
        """A detached process by its name, with its whole tree; or one process by its number. Raises `NotFoundError`."""
        name = "process" if isinstance(target, str) else "pid"
        await ask(self._lines, {"op": "kill", name: target, "signal": signal}, missing=NotFoundError)

    # --- interpreters and terminals ---

    def cell(self, request: CellRequest) -> RunningCell:
        """An async context manager: code that runs in an interpreter."""
        return RunningCell(self._lines, request)

    async def restart(self, interpreter: Interpreter = "python", name: str = "main") -> None:
        """Forget an interpreter's state."""
        request = {"op": "restart", "interpreter": interpreter, "name": name}
        await ask(self._lines, request, missing=NotFoundError)

    def terminal(self, request: TerminalRequest) -> Terminal:
        """An async context manager: a terminal with a shell in it."""
        return Terminal(self._lines, request)

    # --- ports and the way out ---

    async def ports(self) -> list[ListeningPort]:
        return ports_from(await ask(self._lines, {"op": "ports"}))

    async def tunnel(self, port: int) -> Duplex:
        """A connection to a port of the sandbox. Raises `ConflictError` when nothing listens there."""
        return Duplex(await turn_raw(self._lines, {"op": "tunnel", "port": port}, missing=NotFoundError))

    async def egress_offer(self) -> Duplex:
        """Offer one connection to the outside, and wait until a program inside takes it."""
        return Duplex(await turn_raw(self._lines, {"op": "egress"}, missing=NotFoundError, waits=True))

    # --- the sandbox itself ---

    async def claim(self, token: str) -> None:
        """Replace the token: whoever has the old one is out, and so is every other call of this client."""
        await ask(self._lines, {"op": "claim", "token": token})
        self._lines.renew(token)

    async def ping(self) -> Pong:
        fields = await ask(self._lines, {"op": "ping"})
        return Pong(number(fields, "uptime_s"), integer(fields, "connections"))

    async def usage(self) -> Uses:
        fields = await ask(self._lines, {"op": "usage"})
        return Uses(
            processes=integer(fields, "processes"),
            rss_bytes=integer(fields, "rss_bytes"),
            disk_bytes=integer(fields, "disk_bytes"),
            inodes=integer(fields, "inodes"),
            idle_s=number(fields, "idle_s"),
        )

    async def freeze(self) -> None:
        """Stop everything inside but the supervisor."""
        await ask(self._lines, {"op": "freeze"})

    async def thaw(self) -> None:
        await ask(self._lines, {"op": "thaw"})
