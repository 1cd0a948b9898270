"""This terminal as one in a sandbox: keys go there, what it shows comes here."""

import json
import os
import selectors
import shutil
import signal
import socket
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from serve_app.cli.client import PlatformError, refusal

_PIECE_BYTES = 64 * 1024
_REASONS = {4401: "the API key was revoked", 4503: "the sandbox was lost", 4504: "nothing passed for an hour"}


def attach(base_url: str, api_key: str, sandbox_id: str, keys: int = 0, screen: int = 1) -> int:
    """Until the shell there ends; returns its exit code. `keys` and `screen` are file descriptors."""
    columns, rows = shutil.get_terminal_size()
    url = f"ws{base_url.removeprefix('http')}/api/v1/sandboxes/{sandbox_id}/terminal?columns={columns}&rows={rows}"
    headers = {"authorization": f"Bearer {api_key}"}
    try:
        with connect(url, additional_headers=headers, proxy=None, max_size=None) as link, _raw(keys):
            return _joined(link, keys, screen)
    except ConnectionClosed as exc:
        _write(screen, b"\r\n")  # the prompt stands there
        reason = _REASONS.get(exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else "the connection broke"
        raise PlatformError(f"The terminal was closed: {reason}.", mend="aether sandbox ls") from exc
    except InvalidStatus as exc:
        raise refusal(exc.response.status_code, bytes(exc.response.body or b"")) from exc
    except (InvalidHandshake, OSError) as exc:
        raise PlatformError(f"The terminal cannot be opened: {exc}.", mend="aether status") from exc


def _joined(link: ClientConnection, keys: int, screen: int) -> int:
    ours, theirs = socket.socketpair()
    typing = threading.Thread(target=_type, args=(link, keys, theirs), name="keys", daemon=True)
    with ours, theirs, _resized(link):
        typing.start()
        try:
            while isinstance(message := link.recv(), bytes):
                _write(screen, message)
            ended = json.loads(message)
            return int(ended["exit_code"] if ended["exit_code"] is not None else 128 + (ended["signal"] or 0))
        finally:
            ours.close()
            typing.join(timeout=2)


def _type(link: ClientConnection, keys: int, ended: socket.socket) -> None:
    """Until `ended` is readable: a thread that waits for a key cannot be told otherwise."""
    # epoll takes no regular file and no /dev/null, which input may be.
    with selectors.PollSelector() as selector:
        selector.register(keys, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if ended.fileno() in ready:
                return
            try:
                pressed = os.read(keys, _PIECE_BYTES)
            except OSError:  # the window was closed
                return
            with suppress(ConnectionClosed):
                # The end of input is what Ctrl-D is to a terminal.
                link.send(pressed or b"\x04")
            if not pressed:
                return


@contextmanager
def _raw(keys: int) -> Iterator[None]:
    """Every key goes to the sandbox, Ctrl-C too."""
    if not os.isatty(keys):
        yield
        return
    before = termios.tcgetattr(keys)
    tty.setraw(keys)
    try:
        yield
    finally:
        with suppress(termios.error):  # the window may be gone
            termios.tcsetattr(keys, termios.TCSADRAIN, before)


@contextmanager
def _resized(link: ClientConnection) -> Iterator[None]:
    def tell(_number: int, _frame: FrameType | None) -> None:
        columns, rows = shutil.get_terminal_size()
        # Not from within the handler: what it interrupts may hold the connection's lock.
        told = json.dumps({"do": "resize", "columns": columns, "rows": rows})
        threading.Thread(target=_send, args=(link, told), daemon=True).start()

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _send(link: ClientConnection, text: str) -> None:
    with suppress(ConnectionClosed):
        link.send(text)


def _write(screen: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(screen, view) :]
