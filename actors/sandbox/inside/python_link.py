"""A Python interpreter's side of its line to the supervisor, and the streams that keep their order with it."""

import _socket
import _thread
import io
import os
import select
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RUN, ACK = 1, 2
BEGUN, SYNC, DISPLAY, PICTURE, CHUNK, ENDED = range(1, 7)
MOST_FORMS_BYTES = 160 * 1024
MOST_PICTURE_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 192 * 1024
_HEADER = Struct(">IB")
_NUMBER = Struct(">I")
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf")


class Link:
    """Frames both ways, for any thread; `EOFError` when the line is broken. `hold` and `let_go` keep Ctrl-C from tearing a frame in two."""

    def __init__(self, fd: int, hold: "Callable[[], None]", let_go: "Callable[[], None]") -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        self._socket.setblocking(True)
        os.set_inheritable(fd, False)
        self._hold = hold
        self._let_go = let_go
        self._pid = os.getpid()
        self._last = 0
        self._lock = _thread.RLock()
        self.waits_for_answers = False

    def receive(self) -> "tuple[int, bytes]":
        length, kind = _HEADER.unpack(self._exactly(_HEADER.size))
        return kind, self._exactly(length)

    def send(self, kind: int, payload: bytes = b"") -> None:
        if os.getpid() != self._pid:
            return  # a fork of user code speaks for itself only
        with self._lock:
            self._hold()
            try:
                self._socket.sendall(_HEADER.pack(len(payload), kind) + payload)
            except OSError as exc:
                raise EOFError from exc
            finally:
                self._let_go()

    def sync(self) -> None:
        """Returns when all that was written to the streams until now has been read."""
        self._ask(SYNC, b"")

    def display(self, forms: "dict[str, str | bytes]") -> None:
        large = next((mime for mime in _PICTURES if len(forms.get(mime, b"")) > MOST_FORMS_BYTES // 2), None)
        if large is None:
            self._ask(DISPLAY, _packed(forms))
            return
        picture = forms[large]
        if len(picture) > MOST_PICTURE_BYTES or isinstance(picture, str):
            self._ask(DISPLAY, _packed({"text/plain": f"A picture of {len(picture)} bytes is too large to be shown."}))
            return
        pieces = [picture[start : start + _CHUNK_BYTES] for start in range(0, len(picture), _CHUNK_BYTES)]
        self._ask(PICTURE, _NUMBER.pack(len(picture)) + large.encode(), pieces)

    def end(self, status: int, *texts: str) -> None:
        """`texts`: the error's name, message and trace."""
        self.send(ENDED, bytes([status]) + b"".join(_with_length(text) for text in texts))

    def _ask(self, kind: int, payload: bytes, pieces: "list[bytes] | None" = None) -> None:
        with self._lock:
            self._last = (self._last + 1) % 2**32
            number = self._last
            self._hold()
            try:
                self.send(kind, _NUMBER.pack(number) + payload)
                for piece in pieces or []:
                    self.send(CHUNK, piece)
            finally:
                self._let_go()
            self._wait_for(number)

    def _wait_for(self, number: int) -> None:
        # Ctrl-C may end the wait; an answer that comes later has another number.
        while self.waits_for_answers and os.getpid() == self._pid:
            readable, _, _ = select.select([self._socket], [], [], 0.5)
            if not readable:
                continue
            self._hold()
            try:
                found, answer = self.receive()
            finally:
                self._let_go()
            if found == ACK and _NUMBER.unpack(answer)[0] == number:
                return

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                piece = self._socket.recv(length - len(data))
            except OSError as exc:
                raise EOFError from exc
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


class Stream(io.TextIOWrapper):
    """stdout or stderr. Each waits until the other's text has been read, so the two keep their order."""

    def __init__(self, fd: int, order: "Order", name: str) -> None:
        super().__init__(
            io.BufferedWriter(io.FileIO(fd, "wb", closefd=False), 64 * 1024),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        self._order = order
        self._shown_name = name

    @property
    def name(self) -> str:
        return self._shown_name

    def write(self, text: str) -> int:
        self._order.turn_to(self)
        return super().write(text)


class Order:
    """Whose turn it is to write."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._last: Stream | None = None

    def turn_to(self, stream: "Stream | None") -> None:
        """None: a display. Called before anything is written."""
        last = self._last
        if last is stream:
            return
        self._last = stream
        if last is not None:
            last.flush()
            if stream is not None:
                self._link.sync()


def _packed(forms: "dict[str, str | bytes]") -> bytes:
    """As many forms as fit, the plain text first."""
    pieces: list[bytes] = []
    left = MOST_FORMS_BYTES
    for mime in sorted(forms, key=lambda mime: mime != "text/plain"):
        form = forms[mime]
        data = form.encode("utf-8", "backslashreplace") if isinstance(form, str) else form
        piece = bytes([len(mime)]) + mime.encode("ascii", "replace") + _NUMBER.pack(len(data)) + data
        if len(mime) < 100 and len(piece) <= left:
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces)


def _with_length(text: str) -> bytes:
    data = text.encode("utf-8", "backslashreplace")
    return _NUMBER.pack(len(data)) + data
