"""The pool's side of a spawner: starts it, hands it orders, and learns what became of them."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import actors
from actors.sandbox.bubblewrap.spawner import MOST_REQUEST_BYTES, Order
from actors.sandbox.bubblewrap.stage import Plan
from serve_app.core.errors import UnavailableError

_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); from actors.sandbox.bubblewrap.spawner import main;"
    "main(dict(word.split('=', 1) for word in sys.argv[1:]))"
)
_BEGIN_TIMEOUT_S = 20.0
_END_GRACE_S = 5.0
_MOST_ANSWER_BYTES = 4096


@dataclass
class Spawned:
    """A sandbox's first process. `pidfd` is the receiver's to close; `ended` is bubblewrap's exit code, in time."""

    pid: int
    pidfd: int
    ended: asyncio.Future[int | None]


class NotStartedError(Exception):
    """Why there is no sandbox, in sentences for the log and the operator: they may name things of the host."""


class Spawning:
    """One spawner process. Made by `begin`, on the thread of the event loop: it dies with that thread."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._starting: dict[str, asyncio.Future[Spawned]] = {}
        self._running: dict[str, asyncio.Future[int | None]] = {}
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_gone = False
        asyncio.get_running_loop().add_reader(control, self._receive)

    @classmethod
    async def begin(cls, plan: Plan) -> "Spawning":
        """Raises `NotStartedError` when it cannot prepare its mounts; the message says what the kernel refused."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", "-B", "-c", _START, str(Path(actors.__file__).parents[1]),
                    f"control={theirs.fileno()}", f"parent={os.getpid()}",
                    stdin=asyncio.subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/", env={},
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
        spawning = cls(process, ours)
        try:
            ours.send(json.dumps(plan).encode())
            await asyncio.wait_for(spawning._begun, _BEGIN_TIMEOUT_S)
        except (OSError, TimeoutError) as exc:
            await spawning.close()
            raise UnavailableError("The spawner of sandboxes did not start in time. Try again.") from exc
        except BaseException:
            await spawning.close()
            raise
        return spawning

    @property
    def is_gone(self) -> bool:
        return self._is_gone

    async def spawn(self, order: Order, descriptors: Sequence[int]) -> Spawned:
        """`descriptors` as `Order` names them; they stay the caller's.

        Raises:
            NotStartedError: what the sandbox wrote to its standard error says why.
            UnavailableError: the spawner has died.
        """
        if self._is_gone:
            raise UnavailableError("The spawner of sandboxes has died. Try again.")
        future: asyncio.Future[Spawned] = asyncio.get_running_loop().create_future()
        ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._starting[order["id"]], self._running[order["id"]] = future, ended
        message = json.dumps(order).encode()
        try:
            if len(message) > MOST_REQUEST_BYTES:
                raise UnavailableError("The sandbox's order is too long.")
            socket.send_fds(self._control, [message], descriptors)
            return await future
        except OSError as exc:
            raise UnavailableError("The spawner of sandboxes takes no more orders now. Try again.") from exc
        finally:
            self._starting.pop(order["id"], None)

    async def close(self) -> None:
        """Whatever it started dies with it."""
        self._leave()
        if self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), _END_GRACE_S)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    def _receive(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, _MOST_ANSWER_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._leave()
                return
            self._take(json.loads(data), descriptors)

    def _take(self, said: dict[str, object], descriptors: list[int]) -> None:
        match said:
            case {"event": "started", "id": str(name), "pid": int(pid)}:
                [pidfd] = descriptors
                future, ended = self._starting.get(name), self._running.get(name)
                if future is None or ended is None or future.done():
                    os.close(pidfd)
                else:
                    future.set_result(Spawned(pid, pidfd, ended))
            case {"event": "ended", "id": str(name), "code": int(code)}:
                if (ended := self._running.pop(name, None)) and not ended.done():
                    ended.set_result(code)
                if (future := self._starting.get(name)) and not future.done():
                    future.set_exception(NotStartedError(f"bubblewrap ended with {code}"))
            case {"event": "ready"} if not self._begun.done():
                self._begun.set_result(None)
            case {"event": "unable", "reason": str(reason)} if not self._begun.done():
                self._begun.set_exception(NotStartedError(f"No sandbox can be prepared on this machine: {reason}."))
            case _:
                pass

    def _leave(self) -> None:
        if self._is_gone:
            return
        self._is_gone = True
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        lost = UnavailableError("The spawner of sandboxes has died. Try again.")
        waited: list[asyncio.Future[None] | asyncio.Future[Spawned]] = [self._begun, *self._starting.values()]
        for future in waited:
            if not future.done():
                future.set_exception(lost)
                # Nobody may be waiting any more; that is no fault.
                future.exception()
        for ended in self._running.values():
            if not ended.done():
                ended.set_result(None)
        self._running.clear()
