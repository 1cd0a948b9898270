"""Every process tree in the sandbox: started under a keeper, known until its last member is gone, killed whole."""

import _thread
import os
import select
from time import monotonic, sleep

from . import keeper, killing, proc
from .oom import OomScore
from .programs import refusal_of
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .programs import Program

_START_LIMIT_S = 10.0
_KILL_LIMIT_S = 10.0
_NUDGE_S = 1.0


class Tree:
    """One program and all that came of it. Whoever started it calls `close` when done, exactly once."""

    def __init__(self, trees: "Trees", name: str, reports_fd: int) -> None:
        self._trees = trees
        self._name = name
        self._reports_fd = reports_fd
        self.keeper_pid = 0
        self.pid = 0
        self.started_at = monotonic()
        self.status: int | None = None
        """How the program ended, as `waitpid` tells it."""
        self.is_alone = False
        """Nothing of it is left."""
        self.is_over = False
        """The keeper is gone: with `is_alone` in good order, else somebody killed it."""

    def fileno(self) -> int:
        """Readable when `look` will learn something."""
        return self._reports_fd

    @property
    def has_ended(self) -> bool:
        """The program itself, or all that could be known of it."""
        return self.status is not None or self.is_over

    @property
    def exit_code(self) -> "int | None":
        """None: a signal ended it."""
        return os.WEXITSTATUS(self.status) if self.status is not None and os.WIFEXITED(self.status) else None

    @property
    def signal(self) -> "int | None":
        """What ended it. Who took the keeper away is taken to have been killed."""
        if self.status is None:
            return killing.SIGKILL if self.is_over else None
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None

    def look(self) -> None:
        """Read what the keeper reported. Never waits.

        Raises:
            Refused: the program could not be started.
        """
        while not self.is_over:
            try:
                reports = os.read(self._reports_fd, 16 * keeper.REPORT_BYTES)
            except BlockingIOError:
                return
            if not reports:
                self.is_over = True
            for start in range(0, len(reports), keeper.REPORT_BYTES):
                self._take(*keeper.unpack_report(reports, start))

    def wait(self, timeout_s: "float | None" = None) -> bool:
        """Until the program has ended; False when it has not in time."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while not self.has_ended:
            left_s = _NUDGE_S if deadline is None else min(_NUDGE_S, deadline - monotonic())
            if left_s <= 0:
                return False
            self._wait_for_reports(left_s)
        return True

    def signal_group(self, signal: int) -> None:
        """To the program's process group, while it runs."""
        self.look()
        if not self.has_ended:
            killing.send(-self.pid, signal)

    def nudge(self) -> None:
        """A program can stop its keeper, which then does not tell that it ended. Call it every second or so."""
        if not self.is_over:
            self._trees.nudge(self)

    def kill(self) -> None:
        """The whole tree, whatever its members do against it. Waits until nothing is left."""
        self.signal_group(killing.SIGKILL)
        if self.is_alone:
            return
        self._trees.nudge(self)
        if not self.is_over and not self._trees.is_frozen:
            killing.end(lambda: proc.children_of(self.keeper_pid), self._is_gone, _KILL_LIMIT_S)
        if not self.is_alone:
            # Either the keeper was killed, or it is stopped, or they cannot be killed from here: they become ours.
            self._trees.take_over(self)

    def close(self) -> None:
        """What is left of the tree lives on, known to `Trees`; kill it first when it shall not."""
        if self._reports_fd >= 0:
            os.close(self._reports_fd)
            self._reports_fd = -1

    def _is_gone(self, wait_s: float) -> bool:
        self._wait_for_reports(wait_s)
        return self.is_alone or self.is_over

    def _wait_for_reports(self, wait_s: float) -> None:
        poll = select.poll()
        poll.register(self._reports_fd, select.POLLIN)
        if not poll.poll(wait_s * 1000):
            self.nudge()
        self.look()

    def _take(self, kind: int, number: int) -> None:
        if kind == keeper.STARTED:
            self.pid = number
        elif kind == keeper.ENDED:
            self.status = number
        elif kind == keeper.ALONE:
            self.is_alone = True
        elif kind == keeper.FAILED:
            self.is_alone = True
            raise refusal_of(OSError(number, ""), self._name)


class Trees:
    """All trees of the sandbox. Every process in it is started here: a child of ours that is none of them is killed."""

    def __init__(self, oom_score: OomScore) -> None:
        self._lock = _thread.allocate_lock()
        self._sweeping = _thread.allocate_lock()
        self._keepers: dict[int, Tree] = {}
        self._oom_score = oom_score
        self.is_frozen = False

    def start(self, program: "Program", fds: "dict[int, int]", drained: "tuple[int, ...]" = ()) -> Tree:
        """Run `program` with `fds` (its descriptors, each the copy of one of ours) and no others.

        `drained`: reading ends of its pipes, which its keeper reads to nowhere when others outlive the program. The
        caller closes its own copies of all of them.

        Raises:
            Refused: it could not be started.
        """
        reports_fd, report_fd = os.pipe()
        os.set_blocking(reports_fd, False)
        tree = Tree(self, program.argv[0], reports_fd)
        try:
            with self._lock:
                pid = self._fork()
                if pid == 0:
                    keeper.keep(program, report_fd, fds, drained)
                tree.keeper_pid = pid
                self._keepers[pid] = tree
        except OSError as exc:
            tree.close()
            raise refusal_of(exc, "fork") from exc
        finally:
            os.close(report_fd)
        try:
            self._wait_for_start(tree)
        except BaseException:
            tree.close()
            raise
        return tree

    def reap(self) -> bool:
        """Collect whoever of our children has died. True: among them was a keeper that left others behind."""
        has_strays = False
        with self._lock:
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return has_strays
                if not pid:
                    return has_strays
                tree = self._keepers.pop(pid, None)
                # A keeper that ends by itself ends when nobody is left.
                has_strays = has_strays or (tree is not None and status != 0)

    def nudge(self, tree: Tree) -> None:
        if not self.is_frozen:
            self._signal_keeper(tree, killing.SIGCONT)

    def take_over(self, tree: Tree) -> None:
        """Kill a keeper that does not do its work, and who was below it."""
        self._signal_keeper(tree, killing.SIGKILL)
        self.sweep()

    def sweep(self) -> bool:
        """Kill all children of ours that are no keepers. False: there still are some."""
        with self._sweeping:
            if killing.end(self._strays, self._has_no_strays, _KILL_LIMIT_S):
                return True
            if os.getpid() == 1:
                # One system call reaches everybody, also who forks. It costs the sandbox all its programs.
                os.kill(-1, killing.SIGKILL)
            return False

    def end_all(self) -> None:
        """Kill every tree there is."""
        with self._lock:
            for pid in self._keepers:
                killing.send(pid, killing.SIGKILL)
            self._keepers.clear()
        self.sweep()

    @property
    def keepers(self) -> "set[int]":
        with self._lock:
            return set(self._keepers)

    def _fork(self) -> int:
        self._oom_score.offer_up()
        try:
            pid = os.fork()
        except OSError:
            self._oom_score.restore()
            raise
        if pid:
            self._oom_score.restore()
        return pid

    def _wait_for_start(self, tree: Tree) -> None:
        deadline = monotonic() + _START_LIMIT_S
        while not tree.pid:
            if tree.is_over or monotonic() > deadline:
                self.take_over(tree)
                raise Refused("failed", "The program's keeper was killed or stopped before it ran.")
            tree._wait_for_reports(0.2)  # noqa: SLF001 - the two are one

    def _signal_keeper(self, tree: Tree, signal: int) -> None:
        with self._lock:
            # Not reaped: the number is still its own.
            if self._keepers.get(tree.keeper_pid) is tree:
                killing.send(tree.keeper_pid, signal)

    def _strays(self) -> "list[int]":
        with self._lock:
            # Under the lock: a fork is either not there yet or known.
            children = proc.children_of(os.getpid())
            return [pid for pid in children if pid not in self._keepers]

    def _has_no_strays(self, wait_s: float) -> bool:
        sleep(wait_s)
        self.reap()
        return not self._strays()
