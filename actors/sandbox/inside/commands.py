"""Running one program for the host: its output streamed out, its input in, and its whole tree ended with it."""

import os
import select
from time import monotonic

from .asked import flag, seconds, whole
from .frames import CONTROL, DATA, DATA2, END, EVENT, decode, encode
from .pipes import PIPE_BYTES, Pipes, Reader
from .programs import program_of
from .refusals import BadFrame, Gone, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .trees import Tree

_NUDGE_S = 1.0
_MOST_INPUT_BYTES = 2 * PIPE_BYTES
"""Input the program has not read yet; beyond it nothing is read from the host, so no `CONTROL` either."""
_MOST_REST_BYTES = 2 * PIPE_BYTES
_UNLIMITED = 2**62
_MOST_SIGNAL = 64


def execute(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":
    inside = channel.inside
    program = program_of(request, inside)
    timeout_s = seconds(request, "timeout_s")
    output_bytes = whole(request, "output_bytes", _UNLIMITED)
    if flag(request, "detach"):
        from .processes import Detached

        return inside.keep(Detached).start(program, inside, timeout_s)
    leaves_running = flag(request, "leave_running")
    pipes = Pipes(inside.null_fd, has_input=flag(request, "stdin"), is_merged=flag(request, "merge"))
    try:
        # Who outlives the program may go on writing to its pipes.
        tree = inside.trees.start(program, pipes.fds, pipes.outputs if leaves_running else ())
        try:
            pipes.let_go()
            run = _Run(channel, tree, pipes, timeout_s, output_bytes)
            run.serve()
            if not leaves_running or run.was_stopped:
                tree.kill()
            run.send_rest()
            return run.result()
        except BaseException:
            tree.kill()
            raise
        finally:
            tree.close()
    finally:
        pipes.close()


class _Run:
    """The loop of one program. It waits for nothing but `poll`, so a host that does not read cannot stop the clock."""

    def __init__(
        self, channel: "Channel", tree: "Tree", pipes: Pipes, timeout_s: "float | None", output_bytes: int
    ) -> None:
        self.was_stopped = False
        """At its timeout, or because the host said so."""
        self._channel = channel
        self._tree = tree
        self._pipes = pipes
        self._kinds = dict(zip(pipes.outputs, (DATA, DATA2), strict=False))
        self._reader = Reader()
        self._bytes_left = output_bytes
        self._deadline = None if timeout_s is None else tree.started_at + timeout_s
        self._ended_at = tree.started_at
        self._has_timed_out = False
        self._is_cut = False
        self._input = bytearray()
        self._is_input_ended = False
        self._poll = select.poll()
        self._interests: dict[int, int] = {}

    def serve(self) -> None:
        """Until the program has ended or shall end. There may be output in its pipes then."""
        self._channel.post(EVENT, encode({"event": "started", "pid": self._tree.pid}))
        self._tree.look()
        while not self._tree.has_ended and not self.was_stopped:
            if not self._has_much_input:
                self._obey()
            self._wait()
        self._ended_at = monotonic()

    def send_rest(self) -> None:
        """What the program wrote last. At most what pipes can hold: others may hold them too, and go on writing."""
        left = _MOST_REST_BYTES
        self._channel.flush()  # what is not sent yet lies in the memory the reader would use
        while self._kinds and left > 0:
            for fd in tuple(self._kinds):
                chunk = self._reader.read(fd)
                if not chunk:
                    del self._kinds[fd]
                    continue
                left -= len(chunk)
                if len(kept := self._within_limit(chunk)):
                    self._channel.send(self._kinds[fd], kept)

    def result(self) -> "dict[str, object]":
        return {
            "exit_code": self._tree.exit_code,
            "signal": self._tree.signal,
            "timed_out": self._has_timed_out,
            "cut": self._is_cut,
            "duration_s": round(self._ended_at - self._tree.started_at, 6),
        }

    @property
    def _has_much_input(self) -> bool:
        return len(self._input) >= _MOST_INPUT_BYTES

    def _wait(self) -> None:
        channel_fd = self._channel.fileno()
        is_blocked = self._channel.has_unsent
        self._watch(channel_fd, (0 if self._has_much_input else select.POLLIN) | (select.POLLOUT if is_blocked else 0))
        self._watch(self._tree.fileno(), select.POLLIN)
        for fd in self._kinds:
            # Unwatched, not watched for nothing: the end of a pipe is always told.
            self._watch(fd, 0 if is_blocked else select.POLLIN)
        if self._pipes.input is not None:
            self._watch(self._pipes.input, select.POLLOUT if self._input else 0)
        ready = self._poll.poll(self._patience_s() * 1000)
        if not ready:
            self._tree.nudge()
        for fd, events in ready:
            if fd == channel_fd:
                self._channel.flush_now()
                if events & (select.POLLHUP | select.POLLERR) and self._has_much_input:
                    raise Gone
            elif fd in self._kinds:
                self._pass_on(fd)
            elif fd == self._pipes.input:
                self._feed()
            else:
                self._tree.look()
        if self._deadline is not None and monotonic() >= self._deadline and not self._tree.has_ended:
            self._has_timed_out = self.was_stopped = True

    def _watch(self, fd: int, events: int) -> None:
        known = self._interests.get(fd, 0)
        if events == known:
            return
        self._interests[fd] = events
        if not events:
            self._poll.unregister(fd)
        else:
            self._poll.register(fd, events)

    def _patience_s(self) -> float:
        if self._deadline is None:
            return _NUDGE_S
        return max(0.0, min(_NUDGE_S, self._deadline - monotonic()))

    def _pass_on(self, fd: int) -> None:
        if self._channel.has_unsent:
            return
        chunk = self._reader.read(fd)
        if chunk is None:
            return
        if not len(chunk):
            self._watch(fd, 0)
            del self._kinds[fd]
        elif len(kept := self._within_limit(chunk)):
            self._channel.post(self._kinds[fd], kept)

    def _within_limit(self, chunk: memoryview) -> memoryview:
        kept = chunk[: self._bytes_left]
        self._bytes_left -= len(kept)
        self._is_cut = self._is_cut or len(kept) < len(chunk)
        return kept

    def _obey(self) -> None:
        """Take what the host says, as far as there is room for input."""
        while not self._has_much_input and not self.was_stopped and (frame := self._channel.receive_now()) is not None:
            kind, payload = frame
            if kind == DATA and self._pipes.input is not None and not self._is_input_ended:
                self._input += payload
            elif kind == END:
                self._is_input_ended = True
            elif kind == CONTROL:
                self._control(decode(payload))
            elif kind != DATA:
                raise BadFrame("only DATA, END and CONTROL may come while a program runs")
        self._feed()

    def _control(self, control: "dict[str, object]") -> None:
        match control.get("do"):
            case "cancel":
                self.was_stopped = True
            case "signal":
                self._tree.signal_group(whole(control, "signal", least=1, most=_MOST_SIGNAL))
            case _:
                raise Refused("bad_request", "A program takes the controls signal and cancel.")

    def _feed(self) -> None:
        fd = self._pipes.input
        if fd is None:
            return
        try:
            while self._input:
                with memoryview(self._input) as view:
                    size = os.write(fd, view[:PIPE_BYTES])
                del self._input[:size]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # The program reads no more; that is no fault.
            self._input.clear()
            self._is_input_ended = True
        if self._is_input_ended:
            self._watch(fd, 0)
            self._pipes.close_input()
