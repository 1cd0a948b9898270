"""One cell of code in an interpreter, from its start to its end, with output, displays, Ctrl-C and a limit of time."""

import select
from time import monotonic

from . import displays
from .frames import CONTROL, DATA, DATA2, EVENT, decode, encode
from .pipes import PIPE_BYTES, Reader
from .refusals import BadFrame, Gone
from .talks import BEGUN, CHUNK, DISPLAY, ENDED, PICTURE, SYNC, Broken, number_in, shell_outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .interpreters import Session
    from .talks import Message

_SIGINT = 2
_GRACE_S = 2.0
"""From Ctrl-C at the limit to the end of the interpreter."""
_LOOK_S = 0.2
_NUDGE_S = 1.0
_MOST_DISPLAYED_BYTES = 128 * 1024 * 1024
_MOST_DISPLAYS = 2000


class Cell:
    """The loop waits for nothing but `poll`, so that a host that does not read cannot stop the clock."""

    def __init__(
        self, channel: "Channel", session: "Session", timeout_s: "float | None", output_bytes: "int | None"
    ) -> None:
        self._channel = channel
        self._session = session
        self._kinds = dict(zip(session.pipes.outputs, (DATA, DATA2), strict=True))
        self._reader = Reader()
        self._started_at = monotonic()
        self._deadline = None if timeout_s is None else self._started_at + timeout_s
        self._kills_at: float | None = None
        self._nudges_at = self._started_at + _NUDGE_S
        self._left = output_bytes
        self._is_cut = False
        self._displayed_bytes = 0
        self._displays = 0
        self._has_begun = False
        self._interrupts_then = False
        self._was_interrupted = False
        self._has_closed = False
        self._message: Message | None = None
        self._drain_left = 0
        self._picture_left = 0
        self._picture_number = 0
        self._is_picture_shown = False
        self._outcome: dict[str, object] | None = None
        self._poll = select.poll()
        self._interests: dict[int, int] = {}

    def run(self, code: str) -> "dict[str, object]":
        self._session.talk.begin(code)
        try:
            while self._outcome is None:
                if self._channel.has_unsent or not self._advance():
                    self._wait()
                self._keep_time()
        except (Gone, BadFrame):
            self._abandon()
            raise
        self._outcome["duration_s"] = round(monotonic() - self._started_at, 6)
        self._outcome["cut"] = self._is_cut
        return self._outcome

    def _advance(self) -> bool:
        """One step with what is there already. False: nothing is."""
        talk = self._session.talk
        try:
            if self._message is None:
                self._message = talk.take()
                self._drain_left = 2 * PIPE_BYTES
            if self._message is None:
                return False
            kind, payload = self._message
            # What was written before this was said comes before it.
            if kind not in {CHUNK, BEGUN} and self._pump():
                return True
            self._message = None
            self._take(kind, payload)
        except Broken:
            self._end_lost("It said something that is no message.")
        return True

    def _take(self, kind: int, payload: bytes) -> None:
        if (kind == CHUNK) != (self._picture_left > 0):
            raise Broken
        if kind == BEGUN:
            self._has_begun = True
            if self._interrupts_then:
                self._interrupt()
        elif kind == SYNC:
            self._session.talk.answer(number_in(payload)[0])
        elif kind == DISPLAY:
            number, forms = number_in(payload)
            if self._may_display(len(forms)):
                self._channel.post(EVENT, displays.event_of(forms))
            self._session.talk.answer(number)
        elif kind == PICTURE:
            self._picture_number, rest = number_in(payload)
            self._picture_left, mime = displays.picture_of(rest)
            self._is_picture_shown = self._may_display(self._picture_left)
            if self._is_picture_shown:
                event: dict[str, object] = {"event": "display", "size": self._picture_left, "mime": mime}
                self._channel.post(EVENT, encode(event))
        elif kind == CHUNK:
            if not 0 < len(payload) <= self._picture_left:
                raise Broken
            self._picture_left -= len(payload)
            if self._is_picture_shown:
                self._channel.post(DATA, payload)
            if not self._picture_left:
                self._session.talk.answer(self._picture_number)
        elif kind == ENDED:
            self._outcome = self._session.talk.outcome(payload)
            if self._was_interrupted and self._outcome.get("exit_code") == 128 + _SIGINT:
                self._outcome = {"status": "interrupted", "exit_code": 128 + _SIGINT}

    def _may_display(self, size: int) -> bool:
        self._displays += 1
        self._displayed_bytes += size
        if self._displays <= _MOST_DISPLAYS and self._displayed_bytes <= _MOST_DISPLAYED_BYTES:
            return True
        self._is_cut = True
        return False

    def _pump(self) -> bool:
        """Forward one piece of output. False: there is none, or others go on writing it."""
        if self._drain_left <= 0:
            return False
        for fd in tuple(self._kinds):
            piece = self._reader.read(fd)
            if piece:
                self._drain_left -= len(piece)
                self._emit(fd, piece)
                return True
        return False

    def _emit(self, fd: int, piece: memoryview) -> None:
        if self._left is not None:
            self._is_cut = self._is_cut or len(piece) > self._left
            piece = piece[: self._left]
            self._left -= len(piece)
        if piece:
            self._channel.post(self._kinds[fd], piece)

    def _wait(self) -> None:
        session, talk, channel = self._session, self._session.talk, self._channel
        is_blocked = channel.has_unsent
        reads = 0 if is_blocked else select.POLLIN
        self._watch(channel.fileno(), select.POLLIN | (select.POLLOUT if is_blocked else 0))
        # While a picture is sent, nothing else can be: only its bytes may come.
        for fd in self._kinds:
            self._watch(fd, 0 if self._picture_left else reads)
        self._watch(session.tree.fileno(), select.POLLIN)
        writes = select.POLLOUT if talk.wants_to_write else 0
        if talk.read_fd == talk.write_fd:
            self._watch(talk.read_fd, 0 if self._has_closed else reads | writes)
        else:
            self._watch(talk.read_fd, 0 if self._has_closed else reads)
            self._watch(talk.write_fd, writes)
        if channel.has_buffered():
            self._obey()
        now = monotonic()
        times = [at for at in (self._deadline, self._kills_at, now + _LOOK_S) if at is not None]
        ready = dict(self._poll.poll(max(0.0, min(times) - now) * 1000))
        if channel.fileno() in ready:
            channel.flush_now()
            self._obey()
        if talk.wants_to_write and talk.write_fd in ready:
            talk.flush()
        if talk.read_fd in ready and not self._has_closed and reads and not talk.hear():
            # It may have become another program, which runs to its end.
            self._has_closed = True
        elif talk.read_fd not in ready:
            self._forward(ready)
        if session.tree.fileno() in ready:
            session.tree.look()
        if session.tree.has_ended:
            self._end_dead()

    def _forward(self, ready: "dict[int, int]") -> None:
        """Output, but one piece only: the memory it was read into is free again when it was sent."""
        for fd in tuple(self._kinds):
            if fd not in ready or self._channel.has_unsent:
                continue
            piece = self._reader.read(fd)
            if piece is None:
                continue
            if not piece:
                # Everybody has closed it.
                self._watch(fd, 0)
                del self._kinds[fd]
                continue
            self._emit(fd, piece)

    def _watch(self, fd: int, events: int) -> None:
        if self._interests.get(fd, 0) == events:
            return
        if events:
            self._poll.register(fd, events)
        else:
            self._poll.unregister(fd)
        self._interests[fd] = events

    def _obey(self) -> None:
        while (frame := self._channel.receive_now()) is not None:
            kind, payload = frame
            wish = decode(payload).get("do") if kind == CONTROL else None
            if wish not in {"interrupt", "cancel"}:
                raise BadFrame("only CONTROL with interrupt or cancel may come while a cell runs")
            self._interrupt()
            if wish == "cancel":
                self._kills_at = monotonic() + _GRACE_S

    def _keep_time(self) -> None:
        if self._outcome is not None:
            return
        now = monotonic()
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._interrupt()
            self._kills_at = now + _GRACE_S
        if self._session.is_unwanted or (self._kills_at is not None and now >= self._kills_at):
            self._was_interrupted = True
            self._end_lost("It was ended.")
        elif now >= self._nudges_at:
            self._nudges_at = now + _NUDGE_S
            self._session.tree.nudge()

    def _interrupt(self) -> None:
        self._was_interrupted = True
        if self._has_begun:
            self._session.tree.signal_group(_SIGINT)
        else:
            self._interrupts_then = True

    def _abandon(self) -> None:
        """The host has gone: Ctrl-C, and the end for what does not care."""
        self._interrupt()
        session, talk = self._session, self._session.talk
        ends_at = monotonic() + _GRACE_S
        poll = select.poll()
        for fd in (talk.read_fd, session.tree.fileno(), *self._kinds):
            poll.register(fd, select.POLLIN)
        try:
            while (left_s := ends_at - monotonic()) > 0 and not session.tree.has_ended:
                while (message := self._message or talk.take()) is not None:
                    self._message = None
                    kind, payload = message
                    if kind == BEGUN:
                        self._has_begun = True
                        self._interrupt()
                    elif kind in {SYNC, DISPLAY, PICTURE}:
                        talk.answer(number_in(payload)[0])
                    elif kind == ENDED:
                        self._drop_output()
                        return
                talk.flush()
                poll.poll(min(left_s, _LOOK_S) * 1000)
                self._drop_output()
                session.tree.look()
                if not talk.hear():
                    break
        except Broken:
            session.end()
        session.end()

    def _drop_output(self) -> None:
        self._drain_left = 2 * PIPE_BYTES
        self._left = 0
        for fd in self._kinds:
            while self._drain_left > 0 and (piece := self._reader.read(fd)):
                self._drain_left -= len(piece)

    def _end_dead(self) -> None:
        """The interpreter's process has ended."""
        tree = self._session.tree
        self._drain_left = 2 * PIPE_BYTES
        self._finish_picture()
        while not self._channel.has_unsent and self._pump():
            while self._channel.has_unsent:
                self._watch(self._channel.fileno(), select.POLLIN | select.POLLOUT)
                self._poll.poll(_LOOK_S * 1000)
                self._channel.flush_now()
        if tree.exit_code is not None and self._session.is_shell:
            # `exit` is an ordinary end of a shell.
            self._outcome = shell_outcome(tree.exit_code) | {"restarted": True}
        elif tree.signal is not None:
            self._end_lost(f"Signal {tree.signal} ended it; 9 is also what ends it when memory is short.")
        else:
            self._end_lost(f"It ended with exit code {tree.exit_code}.")

    def _finish_picture(self) -> None:
        if self._picture_left and self._is_picture_shown:
            self._channel.data(bytes(self._picture_left))
        self._picture_left = 0

    def _end_lost(self, why: str) -> None:
        self._finish_picture()
        message = f"The interpreter and its state are lost: {why} The next cell starts a new one."
        error = {"name": "InterpreterLost", "message": message, "trace": ""}
        status = "interrupted" if self._was_interrupted else "error"
        self._outcome = {"status": status, "error": error, "restarted": True}
