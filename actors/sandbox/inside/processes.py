"""Operations on processes: those that run, and those the host started to run on by themselves."""

import _thread
import os
import select
from time import monotonic

from . import killing, proc
from .asked import flag, text, whole
from .frames import DATA
from .pipes import Pipes, Reader
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .inside import Inside
    from .programs import Program
    from .trees import Tree

_MOST_DETACHED = 32
_KEPT_BYTES = 256 * 1024
_NUDGE_S = 1.0
_MOST_LISTED = 500
_MOST_ARGUMENT_LETTERS = 200
_MOST_SIGNAL = 64


class _Process:
    """A program that needs no connection. A thread of its own reads its output, both streams as one."""

    def __init__(self, name: str, tree: "Tree", pipes: Pipes, timeout_s: "float | None") -> None:
        self.name = name
        self.tree = tree
        self.is_running = True
        self._pipes = pipes
        self._deadline = None if timeout_s is None else tree.started_at + timeout_s
        self._ended_at: float | None = None
        self._has_timed_out = False
        self._lock = _thread.allocate_lock()
        self._kept = bytearray()
        self._written_bytes = 0
        self._listeners: set[int] = set()

    def follow(self) -> None:
        """The thread: until the program has ended and its tree is gone."""
        fd = self._pipes.outputs[0]
        reader = Reader()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self.tree.fileno(), select.POLLIN)
        while not self.tree.has_ended:
            left_s = _NUDGE_S if self._deadline is None else min(_NUDGE_S, self._deadline - monotonic())
            if left_s <= 0:
                self._has_timed_out = True
                break
            ready = dict(poll.poll(left_s * 1000))
            if not ready:
                self.tree.nudge()
            if fd in ready:
                chunk = reader.read(fd)
                if chunk is not None and not len(chunk):
                    poll.unregister(fd)
                elif chunk:
                    self._append(chunk)
            self.tree.look()
        ended_at = monotonic()
        self.tree.kill()
        while chunk := reader.read(fd):
            self._append(chunk)
        with self._lock:
            self._ended_at = ended_at
            self.is_running = False
            self.tree.close()
            self._pipes.close()
            self._wake()

    def kill(self, signal: int) -> None:
        """SIGKILL is for the whole tree; the thread sees to that when it learns of the program's end."""
        with self._lock:
            if self.is_running:
                self.tree.signal_group(signal)

    def show(self, channel: "Channel", *, follows: bool) -> "dict[str, object]":
        """Send what is kept, and with `follows` what comes, until it ends or the host says `cancel`."""
        wake_fd, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            with self._lock:
                self._listeners.add(wake_end)
            poll = select.poll()
            poll.register(wake_fd, select.POLLIN)
            poll.register(channel.fileno(), select.POLLIN)
            position, is_last = 0, not follows
            while True:
                with self._lock:
                    is_last = is_last or not self.is_running
                    start = max(position, self._written_bytes - len(self._kept))
                    chunk = bytes(self._kept[start - self._written_bytes + len(self._kept) :])
                    position = self._written_bytes
                if chunk:
                    channel.send(DATA, chunk)
                if is_last or channel.is_cancelled():
                    return self._result()
                poll.poll()
                _empty(wake_fd)
        finally:
            with self._lock:
                self._listeners.discard(wake_end)
            os.close(wake_fd)
            os.close(wake_end)

    def _result(self) -> "dict[str, object]":
        with self._lock:
            ended_at = monotonic() if self._ended_at is None else self._ended_at
            return {
                "exit_code": self.tree.exit_code,
                "signal": self.tree.signal,
                "timed_out": self._has_timed_out,
                "cut": self._written_bytes > len(self._kept),
                "duration_s": round(ended_at - self.tree.started_at, 6),
                "running": self.is_running,
            }

    def _append(self, chunk: memoryview) -> None:
        with self._lock:
            self._kept += chunk
            self._written_bytes += len(chunk)
            if len(self._kept) > _KEPT_BYTES:
                del self._kept[:-_KEPT_BYTES]
            self._wake()

    def _wake(self) -> None:
        for fd in self._listeners:
            try:
                os.write(fd, b".")
            except BlockingIOError:
                continue  # has more than enough to wake up for


class Detached:
    """The programs started with `detach`: at most 32 that run, and as many that have ended, for who asks late."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._processes: dict[str, _Process] = {}
        self._count = 0

    def start(self, program: "Program", inside: "Inside", timeout_s: "float | None") -> "dict[str, object]":
        with self._lock:
            if sum(process.is_running for process in self._processes.values()) >= _MOST_DETACHED:
                raise Refused("too_many", f"{_MOST_DETACHED} processes are running detached already.")
            self._count += 1
            name = f"p{self._count}"
            process = _start(name, program, inside, timeout_s)
            self._processes[name] = process
            ended = [one.name for one in self._processes.values() if not one.is_running]
            for old in ended[: max(0, len(ended) - _MOST_DETACHED)]:
                del self._processes[old]
        return {"process": name, "pid": process.tree.pid}

    def find(self, name: str) -> _Process:
        with self._lock:
            process = self._processes.get(name)
        if process is None:
            raise Refused("not_found", f"There is no process {name}.")
        return process

    def keepers(self) -> "dict[int, str]":
        """Names by keeper."""
        with self._lock:
            return {process.tree.keeper_pid: name for name, process in self._processes.items() if process.is_running}


def list_processes(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":  # noqa: ARG001 - every operation has it
    keepers = channel.inside.trees.keepers
    names = channel.inside.keep(Detached).keepers()
    everyone = {process.pid: process for process in proc.below(os.getpid())}
    listed: list[dict[str, object]] = []
    for process in everyone.values():
        if process.pid in keepers:
            continue
        entry: dict[str, object] = {
            "pid": process.pid,
            "ppid": process.parent,
            "argv": _shortened(proc.command_of(process.pid)),
            "rss_bytes": process.rss_bytes,
            "cpu_s": process.cpu_s,
            "state": process.state,
        }
        above = process
        while above.pid not in names and above.parent in everyone:
            above = everyone[above.parent]
        if above.pid in names:
            entry["process"] = names[above.pid]
        listed.append(entry)
    return {"processes": listed[:_MOST_LISTED], "cut": len(listed) > _MOST_LISTED}


def attach(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":
    process = channel.inside.keep(Detached).find(text(request, "process"))
    return process.show(channel, follows=flag(request, "follow"))


def kill(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":
    signal = whole(request, "signal", killing.SIGKILL, least=1, most=_MOST_SIGNAL)
    if "process" in request:
        channel.inside.keep(Detached).find(text(request, "process")).kill(signal)
        return {}
    pid = whole(request, "pid", least=1, most=2**31 - 1)
    if pid in channel.inside.trees.keepers or pid not in {process.pid for process in proc.below(os.getpid())}:
        raise Refused("not_found", f"There is no process {pid}.")
    killing.send(pid, signal)
    return {}


def _start(name: str, program: "Program", inside: "Inside", timeout_s: "float | None") -> _Process:
    pipes = Pipes(inside.null_fd, has_input=False, is_merged=True)
    try:
        tree = inside.trees.start(program, pipes.fds)
    except BaseException:
        pipes.close()
        raise
    pipes.let_go()
    process = _Process(name, tree, pipes, timeout_s)
    try:
        _thread.start_new_thread(process.follow, ())
    except RuntimeError as exc:
        tree.kill()
        tree.close()
        pipes.close()
        raise Refused("too_many", "The sandbox has as many threads as it may have.") from exc
    return process


def _shortened(argv: "list[str]") -> "list[str]":
    """As much as fits an entry: the list must fit a frame."""
    left = _MOST_ARGUMENT_LETTERS
    kept = []
    for argument in argv:
        kept.append(argument[:left])
        left -= len(argument) + 1
        if left <= 0:
            break
    return kept


def _empty(fd: int) -> None:
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        return
