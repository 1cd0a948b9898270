"""How the supervisor talks with interpreters: short frames with those that run our code, lines with a shell."""

import os
from struct import Struct

from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    Message = tuple[int, bytes]

    class Talk(Protocol):
        """Nothing here waits. Everything the other side says may be a lie, and raises `Broken` when it is no message."""

        read_fd: int
        write_fd: int

        @property
        def wants_to_write(self) -> bool: ...

        def begin(self, code: str) -> None:
            """Run a cell."""
            ...

        def answer(self, number: int) -> None:
            """All that was written before a `SYNC`, `DISPLAY` or `PICTURE` has been read."""
            ...

        def flush(self) -> None: ...

        def hear(self) -> bool:
            """Read once. False: the other side has closed."""
            ...

        def take(self) -> "Message | None": ...

        def outcome(self, payload: bytes) -> "dict[str, object]":
            """Of an `ENDED`."""
            ...

        def close(self) -> None: ...


BEGUN, SYNC, DISPLAY, PICTURE, CHUNK, ENDED = range(1, 7)
_RUN, _ACK = 1, 2
_MOST_FRAME_BYTES = 256 * 1024
_READ_BYTES = 256 * 1024
_MOST_LINE_BYTES = 100
_HEADER = Struct(">IB")
_NUMBER = Struct(">I")
_STATUS_FUNCTION = "__aether_status"
_STATUS = ("ok", "error", "interrupted")


class Broken(Exception):  # noqa: N818 - said about the interpreter, not raised at it
    """The other side says what it cannot say: it is ended."""


class _Ends:
    """The two descriptors of a talk, and what waits to be written or understood."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        for fd in {read_fd, write_fd}:
            os.set_blocking(fd, False)
        self._heard = bytearray()
        self._unsaid = bytearray()

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsaid)

    def flush(self) -> None:
        if self._unsaid:
            try:
                del self._unsaid[: os.write(self.write_fd, self._unsaid)]
            except BlockingIOError:
                return
            except OSError:
                self._unsaid.clear()  # it is gone, which `hear` will tell

    def hear(self) -> bool:
        try:
            piece = os.read(self.read_fd, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._heard += piece
        return bool(piece)

    def close(self) -> None:
        for fd in {self.read_fd, self.write_fd}:
            os.close(fd)

    def _say(self, data: bytes) -> None:
        self._unsaid += data
        self.flush()


class FramedTalk(_Ends):
    """With `python_cell` and the cell runner of Node, over one socket."""

    def begin(self, code: str) -> None:
        self._say_frame(_RUN, code.encode("utf-8", "replace"))

    def answer(self, number: int) -> None:
        self._say_frame(_ACK, _NUMBER.pack(number))

    def take(self) -> "Message | None":
        if len(self._heard) < _HEADER.size:
            return None
        length, kind = _HEADER.unpack_from(self._heard)
        if length > _MOST_FRAME_BYTES or not BEGUN <= kind <= ENDED:
            raise Broken
        end = _HEADER.size + length
        if len(self._heard) < end:
            return None
        payload = bytes(self._heard[_HEADER.size : end])
        del self._heard[:end]
        return kind, payload

    def outcome(self, payload: bytes) -> "dict[str, object]":
        if not payload or payload[0] >= len(_STATUS):
            raise Broken
        outcome: dict[str, object] = {"status": _STATUS[payload[0]]}
        if payload[0]:
            texts, at = [], 1
            for most in (200, 4000, 24_000):
                data, at = with_length(payload, at)
                texts.append(data.decode("utf-8", "replace")[:most])
            outcome["error"] = dict(zip(("name", "message", "trace"), texts, strict=True))
        return outcome

    def _say_frame(self, kind: int, payload: bytes) -> None:
        self._say(_HEADER.pack(len(payload), kind) + payload)


class ShellTalk(_Ends):
    """With an interactive bash: commands on its stdin, reports on a descriptor of its own that commands do not have.

    It reports when a command begins, and from `PROMPT_COMMAND` when it is ready for the next one, also after Ctrl-C:
    only an interactive bash gives up a whole command then and lives on.
    """

    def __init__(self, read_fd: int, write_fd: int, report_fd: int, error_fd: int) -> None:
        """Its stderr leads nowhere until it has complained about the terminal it does not have; then to `error_fd`."""
        super().__init__(read_fd, write_fd)
        self._report_fd = report_fd
        self._number = 0
        self._status = 0
        self._has_begun = False
        self._say(f"{_STATUS_FUNCTION}() {{ return $1; }}; exec 2>&{error_fd} {error_fd}>&-\n".encode())

    def begin(self, code: str) -> None:
        if "\0" in code:
            raise Refused("bad_request", "A shell's code cannot have NUL in it.")
        self._number += 1
        self._has_begun = False
        fd, number = self._report_fd, self._number
        quoted = code.replace("'", "'\\''")
        parts = (
            # An empty line first: Ctrl-C that came late costs bash the letter it is reading.
            f"\nPROMPT_COMMAND='builtin printf \"e {number} %d\\n\" $? >&{fd}'",
            f"builtin printf 'b {number} 0\\n' >&{fd}",
            # What the command may ask for with `$?`.
            f"{_STATUS_FUNCTION} {self._status}" if self._status else ":",
            f"eval '{quoted}' </dev/null {fd}>&-",
            # Again, as the command may have set it.
            f'builtin eval "PROMPT_COMMAND=\'builtin printf \\"e {number} $?\\\\n\\" >&{fd}\'"\n',
        )
        self._say(";".join(parts).encode("utf-8", "replace"))

    def answer(self, number: int) -> None:
        """A shell asks nothing."""

    def take(self) -> "Message | None":
        while (end := self._heard.find(b"\n")) >= 0:
            line = bytes(self._heard[:end])
            del self._heard[: end + 1]
            kind, _, rest = line.partition(b" ")
            number, _, status = rest.partition(b" ")
            if number != b"%d" % self._number:
                continue  # of an earlier command, by way of Ctrl-C
            if kind == b"b":
                self._has_begun = True
                return BEGUN, b""
            if kind == b"e" and self._has_begun and len(status) < 4 and status.isdigit():
                self._status = int(status)
                return ENDED, status
        if len(self._heard) > _MOST_LINE_BYTES:
            raise Broken
        return None

    def outcome(self, payload: bytes) -> "dict[str, object]":
        return shell_outcome(int(payload))


def shell_outcome(exit_code: int) -> "dict[str, object]":
    outcome: dict[str, object] = {"status": "error" if exit_code else "ok", "exit_code": exit_code}
    if exit_code:
        outcome["error"] = {
            "name": "ExitCode",
            "message": f"The shell's last command ended with {exit_code}.",
            "trace": "",
        }
    return outcome


def with_length(payload: bytes, at: int) -> "tuple[bytes, int]":
    """The piece that starts at `at` with its length, and where it ends."""
    if at + _NUMBER.size > len(payload):
        raise Broken
    (length,) = _NUMBER.unpack_from(payload, at)
    start = at + _NUMBER.size
    if start + length > len(payload):
        raise Broken
    return payload[start : start + length], start + length


def number_in(payload: bytes) -> "tuple[int, bytes]":
    """The number that wants an answer, and what follows it."""
    if len(payload) < _NUMBER.size:
        raise Broken
    return _NUMBER.unpack_from(payload)[0], payload[_NUMBER.size :]
