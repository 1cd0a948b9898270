"""What operations share: this sandbox's folders, its process trees, who holds it and when it was last used."""

import _operator
import _socket
import _thread
import os
from time import monotonic

from .oom import OomScore
from .operations import UNNOTICED
from .programs import base_environment
from .trees import Trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Kept = TypeVar("Kept")

ROOTS = {"work": "/work", "tmp": "/tmp", "home": "/home/agent"}  # noqa: S108 - the sandbox's own
EGRESS_PORT = 3128


class Inside:
    """One sandbox, seen from within. `roots` are its folders `work`, `tmp` and `home`."""

    def __init__(
        self, token: str, roots: "dict[str, str]", environment: "dict[str, str]", egress_port: "int | None"
    ) -> None:
        self.roots = roots
        self.egress_port = egress_port
        proxy = None if egress_port is None else f"http://127.0.0.1:{egress_port}"
        self.environment = base_environment(environment, roots["home"], proxy)
        self.trees = Trees(OomScore())
        self.null_fd = os.open("/dev/null", os.O_RDWR)
        self.started_at = monotonic()
        self._token = token.encode()
        self._lock = _thread.allocate_lock()
        self._connections: dict[int, _socket.socket] = {}
        self._kept: dict[type, object] = {}
        self._uses = 0
        self._last_used_at = self.started_at

    def keep(self, kind: "type[Kept]") -> "Kept":
        """The one object of this kind in the sandbox, made when first asked for."""
        with self._lock:
            if kind not in self._kept:
                self._kept[kind] = kind()
            kept = self._kept[kind]
        assert isinstance(kept, kind)  # noqa: S101 - for the type checker
        return kept

    def admit(self, connection: _socket.socket, token: str) -> bool:
        """Whether this is the holder's token; its connection is then one of those a claim closes."""
        with self._lock:
            if not _operator._compare_digest(token.encode("utf-8", "surrogatepass"), self._token):  # noqa: SLF001 - what hmac has
                return False
            self._connections[connection.fileno()] = connection
            return True

    def dismiss(self, connection: _socket.socket) -> None:
        """Called before the connection is closed."""
        with self._lock:
            self._connections.pop(connection.fileno(), None)

    def claim(self, token: str, connection: _socket.socket) -> None:
        """A new holder. Whoever else is connected is out at once, and what they asked for cancelled."""
        with self._lock:
            self._token = token.encode()
            for other in self._connections.values():
                if other is not connection:
                    try:
                        other.shutdown(_socket.SHUT_RDWR)
                    except OSError:
                        continue
            self._connections = {connection.fileno(): connection}

    @property
    def connections(self) -> int:
        with self._lock:
            return len(self._connections)

    def begin(self, operation: str) -> None:
        if operation not in UNNOTICED:
            with self._lock:
                self._uses += 1

    def finish(self, operation: str) -> None:
        if operation not in UNNOTICED:
            with self._lock:
                self._uses -= 1
                self._last_used_at = monotonic()

    @property
    def idle_s(self) -> float:
        """How long no operation has used it. What programs do by themselves is none."""
        with self._lock:
            return 0.0 if self._uses else monotonic() - self._last_used_at
