"""Child processes of the supervisor: started, waited for through pidfds, and never left as zombies.

asyncio's own subprocesses are not used because the supervisor is a subreaper: processes it never started become
its children (Ray's daemons, a dead PostgreSQL's backends), and asyncio's watchers and a `waitpid(-1)` for those
would steal each other's exit codes.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from serve_app.embedded.processes import ProcessMark, mark

Stream = int | IO[bytes] | None


class Child:
    """One process. `returncode` is None while it lives, and -1 when its exit code could not be had."""

    def __init__(self, pid: int, popen: "subprocess.Popen[bytes] | None") -> None:
        self.pid = pid
        self.popen = popen
        self.mark: ProcessMark | None = mark(pid)
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        return self._exit.result() if self._exit.done() else None

    @property
    def is_alive(self) -> bool:
        return not self._exit.done()

    async def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the exit.

        Raises:
            TimeoutError: the process still lives.
        """
        return await asyncio.wait_for(asyncio.shield(self._exit), timeout_s)

    def send(self, number: signal.Signals) -> None:
        """Signal the process; one that is gone is not an error."""
        if self.is_alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    async def end(self, number: signal.Signals, *, grace_s: float, last: signal.Signals = signal.SIGKILL) -> int:
        """Ask with `number`, insist with `last` after `grace_s`."""
        self.send(number)
        try:
            return await self.wait(grace_s)
        except TimeoutError:
            self.send(last)
        try:
            return await self.wait(grace_s)
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def _finish(self) -> None:
        if self._exit.done():
            return
        if self.popen is not None:
            code = self.popen.poll()
        else:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if pid else None
            except ChildProcessError:
                code = None if Path(f"/proc/{self.pid}").exists() else -1
        if code is not None:
            self._exit.set_result(code)


class Children:
    """Starts processes and hears of their end. One per event loop."""

    def __init__(self) -> None:
        self._known: dict[int, Child] = {}
        self._pidfds: dict[int, int] = {}
        self._reaps_orphans = False

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        user: int | None = None,
        group: int | None = None,
    ) -> Child:
        """Start a program. Raises OSError when it cannot be executed."""
        popen = subprocess.Popen(
            [str(part) for part in argv],
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
        return self._watch(Child(popen.pid, popen))

    async def run(self, argv: Sequence[str | Path], *, timeout_s: float, **how: object) -> int:
        """Start a program and wait for it; it is killed when it takes longer than `timeout_s`.

        Raises:
            TimeoutError: it was killed.
        """
        child = self.spawn(argv, **how)  # type: ignore[arg-type]  # the keywords of spawn, passed on
        try:
            return await child.wait(timeout_s)
        finally:
            if child.is_alive:
                child.send(signal.SIGKILL)
                await child.wait()

    def adopt(self, pid: int) -> Child:
        """Hear of the end of a process somebody below us started and left behind."""
        return self._known.get(pid) or self._watch(Child(pid, None))

    def reap_orphans(self) -> None:
        """From now on collect every dead process that was handed to this one. Only for a subreaper."""
        self._reaps_orphans = True
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._on_sigchld)

    def close(self) -> None:
        """Stop listening; processes still alive are left alone."""
        loop = asyncio.get_running_loop()
        if self._reaps_orphans:
            loop.remove_signal_handler(signal.SIGCHLD)
        for pidfd in self._pidfds.values():
            loop.remove_reader(pidfd)
            os.close(pidfd)
        self._pidfds.clear()

    def _watch(self, child: Child) -> Child:
        try:
            pidfd = os.pidfd_open(child.pid)
        except ProcessLookupError:  # an adopted process that has been reaped already
            child._finish()  # noqa: SLF001 - Child and Children are one mechanism
            return child
        self._known[child.pid] = child
        self._pidfds[child.pid] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._on_exit, child)
        return child

    def _on_exit(self, child: Child) -> None:
        child._finish()  # noqa: SLF001 - as above
        if not child.is_alive:
            self._known.pop(child.pid, None)
            if (pidfd := self._pidfds.pop(child.pid, None)) is not None:
                asyncio.get_running_loop().remove_reader(pidfd)
                os.close(pidfd)

    def _on_sigchld(self) -> None:
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            known = self._known.get(dead.si_pid)
            if known is None:
                os.waitpid(dead.si_pid, os.WNOHANG)
            else:
                self._on_exit(known)
