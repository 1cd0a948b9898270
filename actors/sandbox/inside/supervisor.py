"""The supervisor: admits the host's connections, runs their operations, and reaps and kills what processes leave behind.

Arguments: `--listen-fd N`, `--dial PATH` or `--passed-fd N` (where connections come from), `--token-fd N` (the first
token, read to its end), `--egress` (programs find a way out on 127.0.0.1:3128; `--egress-port N` elsewhere),
`--root NAME=PATH` (another folder for `work`, `tmp` or `home`).
"""

import _signal  # type: ignore[import-not-found]  # nobody types what signal is made of; signal is expensive to import
import _thread
import os
import select
import sys

from . import native
from .channel import Channel
from .doors import DialledDoor, ListeningDoor, PassedDoor
from .frames import CONTROL, DATA, END, ERROR, HELLO, REQUEST, RESULT, decode, encode
from .inside import EGRESS_PORT, ROOTS, Inside
from .operations import OPERATIONS
from .refusals import BadFrame, Gone, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from .doors import Door

    Operation = Callable[[Channel, dict[str, object]], dict[str, object] | None]

VERSION = 1
_HELLO_LIMIT_S = 5.0
_MOST_CONNECTIONS = 128
_MOST_IDLE_THREADS = 4
_STACK_BYTES = 1024 * 1024
_SWITCH_S = 0.0005
"""A thread that computes gives way so often: others wait for a program's first output."""
_MESSAGE_LETTERS = 500


class Supervisor:
    """A thread for each connection, and the main one for the dead. `run` returns when SIGTERM came, but never as pid 1."""

    def __init__(self, door: "Door", inside: Inside) -> None:
        self._door = door
        self._inside = inside
        self._lock = _thread.allocate_lock()
        self._waiting = 0
        self._serving = 0
        self._operations: dict[str, Operation] = {}

    def run(self) -> None:
        # Inside, anybody may say `pkill python3`, and gVisor does not keep that from pid 1 as Linux does.
        wake_fd = self._wake_on({_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP})
        for _ in range(self._door.waiting):
            self._add_thread()
        trees = self._inside.trees
        poll = select.poll()
        poll.register(wake_fd, select.POLLIN)
        while True:
            poll.poll()
            # The numbers of the signals that came.
            if _signal.SIGTERM in os.read(wake_fd, 4096) and os.getpid() != 1:
                break
            if trees.reap():
                trees.sweep()
        trees.end_all()

    @staticmethod
    def _wake_on(signals: "set[int]") -> int:
        wake_fd, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(wake_fd, True)
        _signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for signal in signals:
            _signal.signal(signal, lambda *_: None)
        return wake_fd

    def _add_thread(self) -> bool:
        """False: the sandbox has as many threads as it may have."""
        with self._lock:
            self._waiting += 1
        try:
            _thread.start_new_thread(self._work, ())
        except RuntimeError:
            with self._lock:
                self._waiting -= 1
            return False
        return True

    def _work(self) -> None:
        while True:
            try:
                connection = self._door.enter()
            except OSError:
                os._exit(74)  # without a door there is no use in living
            with self._lock:
                self._waiting -= 1
                self._serving += 1
                is_full = self._serving > _MOST_CONNECTIONS
                needs_another = self._waiting < self._door.waiting
            # Somebody must stay at the door: it may be knocked at to end what keeps us from having more threads.
            is_alone = not is_full and needs_another and not self._add_thread() and self._waiting == 0
            channel = Channel(connection, self._inside)
            try:
                if is_full or is_alone:
                    self._fail(channel, Refused("too_many", "The sandbox serves as many connections as it can."))
                else:
                    self._serve(channel)
            except Gone:
                pass
            finally:
                self._inside.dismiss(connection)
                connection.close()
            with self._lock:
                self._serving -= 1
                if self._waiting >= max(_MOST_IDLE_THREADS, self._door.waiting):
                    return
                self._waiting += 1

    def _serve(self, channel: Channel) -> None:
        """One connection, to its end."""
        try:
            if not self._is_welcome(channel):
                self._fail(channel, Refused("bad_hello", "A hello with version 1 and the sandbox's token comes first."))
                return
            while True:
                kind, payload = channel.receive()
                if kind == REQUEST:
                    if not self._operate(channel, decode(payload)):
                        return
                elif kind not in {DATA, END, CONTROL}:
                    # Those may have been under way when their operation ended.
                    raise BadFrame("HELLO comes once")
        except BadFrame as exc:
            self._fail(channel, Refused("bad_frame", f"{exc}."))
        except (OSError, MemoryError, RuntimeError) as exc:
            self._fail(channel, Refused("failed", f"{type(exc).__name__}: {exc}"))

    def _is_welcome(self, channel: Channel) -> bool:
        try:
            kind, payload = channel.receive(_HELLO_LIMIT_S)
        except TimeoutError:
            return False
        if kind != HELLO:
            return False
        hello = decode(payload)
        token = hello.get("token")
        return (
            hello.get("version") == VERSION and isinstance(token, str) and self._inside.admit(channel.connection, token)
        )

    def _operate(self, channel: Channel, request: "dict[str, object]") -> bool:
        """False: the connection is used up."""
        name = request.get("op")
        name = name if isinstance(name, str) else ""
        self._inside.begin(name)
        try:
            result = self._find(name)(channel, request)
        except Refused as exc:
            self._fail(channel, exc)
            return True
        except (Gone, BadFrame):
            raise
        except Exception as exc:  # noqa: BLE001 - pid 1 must not die of an operation, whatever went wrong in it
            self._fail(channel, Refused("failed", f"{type(exc).__name__}: {exc}"))
            return True
        finally:
            self._inside.finish(name)
        if result is None:
            return False
        channel.send(RESULT, encode(result))
        return True

    def _find(self, name: str) -> "Operation":
        known = self._operations.get(name)
        if known is None:
            if name not in OPERATIONS:
                raise Refused("bad_request", "There is no such operation.")
            module, function = OPERATIONS[name]
            known = getattr(__import__(f"{__package__}.{module}", fromlist=[function]), function)
            self._operations[name] = known
        return known

    @staticmethod
    def _fail(channel: Channel, refusal: Refused) -> None:
        said: dict[str, object] = {"code": refusal.code, "message": refusal.message[:_MESSAGE_LETTERS]}
        if refusal.details:
            said["details"] = refusal.details
        channel.send(ERROR, encode(said))


def main(arguments: "list[str]") -> "NoReturn":
    """Never returns: the sandbox ends with it."""
    options, roots = _read(arguments)
    door: Door
    if "--dial" in options:
        _close_all_but(int(options["--token-fd"]))
        door = DialledDoor(options["--dial"])
    elif "--passed-fd" in options:
        passed_fd = int(options["--passed-fd"])
        _close_all_but(int(options["--token-fd"]), passed_fd)
        door = PassedDoor(passed_fd)
    else:
        listen_fd = int(options["--listen-fd"])
        _close_all_but(int(options["--token-fd"]), listen_fd)
        door = ListeningDoor(listen_fd)
    egress_port = int(options["--egress-port"]) if "--egress-port" in options else None
    inside = Inside(_read_token(int(options["--token-fd"])), roots, dict(os.environ), egress_port)
    native.hide_memory()
    native.become_subreaper()
    native.share_one_heap()
    sys.setswitchinterval(_SWITCH_S)
    _thread.stack_size(_STACK_BYTES)
    if egress_port is not None:
        __import__(f"{__package__}.egress", fromlist=["open_outlet"]).open_outlet(inside)
    Supervisor(door, inside).run()
    os._exit(0)


def _read(arguments: "list[str]") -> "tuple[dict[str, str], dict[str, str]]":
    options: dict[str, str] = {}
    roots = dict(ROOTS)
    rest = iter(arguments)
    for name in rest:
        if name == "--egress":
            options.setdefault("--egress-port", str(EGRESS_PORT))
        elif name == "--root":
            key, _, path = next(rest).partition("=")
            roots[key] = path
        elif name in {"--listen-fd", "--dial", "--passed-fd", "--token-fd", "--egress-port"}:
            options[name] = next(rest)
        else:
            raise SystemExit(f"unknown argument {name}")
    if "--token-fd" not in options or len(options.keys() & {"--dial", "--listen-fd", "--passed-fd"}) != 1:
        raise SystemExit("give --token-fd, and --listen-fd, --dial or --passed-fd")
    return options, roots


def _close_all_but(*kept: int) -> None:
    """Whatever else was handed down is of no use here and none of a program's business."""
    start = 3
    for fd in (*sorted(kept), max(start, os.sysconf("SC_OPEN_MAX"))):
        os.closerange(start, fd)
        start = max(start, fd + 1)


def _read_token(fd: int) -> str:
    pieces = []
    while piece := os.read(fd, 4096):
        pieces.append(piece)
    os.close(fd)
    return b"".join(pieces).decode("ascii").strip()
