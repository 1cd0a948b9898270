"""The operation terminal: a program with a terminal of its own, whose bytes go both ways until it ends."""

import errno
import fcntl
import os
import select
import termios
from struct import pack
from time import monotonic

from .asked import whole
from .frames import CONTROL, DATA, END, EVENT, decode, encode
from .pipes import Reader
from .programs import program_of, shell_path
from .refusals import BadFrame, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .channel import Channel
    from .trees import Tree

_MOST = 16
_MOST_CELLS = 2000
_NUDGE_S = 1.0
_MOST_INPUT_BYTES = 64 * 1024
_MOST_REST_BYTES = 1024 * 1024


class Terminals:
    """How many there are."""

    def __init__(self) -> None:
        self.open: set[int] = set()


def terminal(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":
    inside = channel.inside
    columns, rows = _size_of(request)
    if request.get("argv") is None:
        request = request | {"argv": [shell_path(), "-l"]}
    request = request | {"shell": None}
    program = program_of(request, inside)
    program.env = {"TERM": "xterm-256color"} | program.env
    known = inside.keep(Terminals)
    master, slave = os.openpty()
    try:
        known.open.add(master)
        if len(known.open) > _MOST:
            raise Refused("too_many", f"There are {_MOST} terminals already.")
        _resize(master, columns, rows)
        program.terminal = os.ttyname(slave)
        # It opens the terminal by its path, which makes it the session's own; this copy keeps it from ending before.
        tree = inside.trees.start(program, {})
        try:
            os.close(slave)
            slave = -1
            session = _Session(channel, tree, master)
            session.serve()
            tree.kill()
            session.send_rest()
            return session.result()
        except BaseException:
            tree.kill()
            raise
        finally:
            tree.close()
    except OSError as exc:
        raise Refused("failed", f"There is no terminal to be had: {os.strerror(exc.errno or 0)}.") from exc
    finally:
        known.open.discard(master)
        os.close(master)
        if slave >= 0:
            os.close(slave)


class _Session:
    """The loop of one terminal. It waits for nothing but `poll`."""

    def __init__(self, channel: "Channel", tree: "Tree", master: int) -> None:
        self._channel = channel
        self._tree = tree
        self._master = master
        os.set_blocking(master, False)
        self._reader = Reader()
        self._input = bytearray()
        self._has_hung_up = False
        self._is_cancelled = False

    def serve(self) -> None:
        channel, tree = self._channel, self._tree
        channel.post(EVENT, encode({"event": "started", "pid": tree.pid}))
        tree.look()
        while not tree.has_ended and not self._is_cancelled:
            if len(self._input) < _MOST_INPUT_BYTES:
                self._obey()
            poll = select.poll()
            wants = select.POLLIN if len(self._input) < _MOST_INPUT_BYTES else 0
            poll.register(channel.fileno(), wants | (select.POLLOUT if channel.has_unsent else 0) | select.POLLRDHUP)
            poll.register(tree.fileno(), select.POLLIN)
            reads = 0 if channel.has_unsent else select.POLLIN
            if not self._has_hung_up and (reads or self._input):
                poll.register(self._master, reads | (select.POLLOUT if self._input else 0))
            ready = dict(poll.poll(_NUDGE_S * 1000))
            if not ready:
                tree.nudge()
            if ready.get(channel.fileno(), 0) & select.POLLRDHUP and not wants:
                self._is_cancelled = True
            channel.flush_now()
            self._write()
            if self._master in ready and not channel.has_unsent:
                self._read()
            if tree.fileno() in ready:
                tree.look()

    def send_rest(self) -> None:
        """What the program wrote last."""
        left = _MOST_REST_BYTES
        while left > 0 and not self._has_hung_up:
            piece = self._take()
            if not piece:
                return
            left -= len(piece)
            self._channel.send(DATA, piece)

    def result(self) -> "dict[str, object]":
        tree = self._tree
        return {
            "exit_code": tree.exit_code,
            "signal": tree.signal,
            "timed_out": False,
            "cut": False,
            "duration_s": round(monotonic() - tree.started_at, 6),
        }

    def _read(self) -> None:
        piece = self._take()
        if piece:
            self._channel.post(DATA, piece)

    def _take(self) -> "memoryview | None":
        try:
            return self._reader.read(self._master)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            # Nobody has the other end open, but somebody may open it again.
            self._has_hung_up = True
            return None

    def _write(self) -> None:
        if not self._input:
            return
        try:
            del self._input[: os.write(self._master, self._input)]
        except BlockingIOError:
            return
        except OSError:
            self._input.clear()

    def _obey(self) -> None:
        while len(self._input) < _MOST_INPUT_BYTES and (frame := self._channel.receive_now()) is not None:
            kind, payload = frame
            if kind == DATA:
                self._input += payload
            elif kind == CONTROL:
                control = decode(payload)
                match control.get("do"):
                    case "resize":
                        _resize(self._master, *_size_of(control))
                    case "cancel":
                        self._is_cancelled = True
                        return
                    case "signal":
                        self._tree.signal_group(whole(control, "signal", least=1, most=64))
                    case _:
                        raise BadFrame("a terminal is told to resize, signal or cancel")
            elif kind != END:
                raise BadFrame("only DATA and CONTROL may come while a terminal is open")


def _size_of(request: "dict[str, object]") -> "tuple[int, int]":
    columns = whole(request, "columns", 80, least=1, most=_MOST_CELLS)
    return columns, whole(request, "rows", 24, least=1, most=_MOST_CELLS)


def _resize(master: int, columns: int, rows: int) -> None:
    """The program is told with SIGWINCH by the kernel."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, pack("HHHH", rows, columns, 0, 0))
