"""Free TCP ports on this machine, and whether one can be had."""

import errno
import random
import socket


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def free_block(size: int, *, low: int = 20000, high: int = 32000) -> int:
    """The first of `size` neighbouring ports nobody listens on, below the range the kernel hands out by itself."""
    starts = list(range(low, high - size, size))
    random.shuffle(starts)
    for start in starts:
        if all(bind_error("127.0.0.1", port) is None for port in range(start, start + size)):
            return start
    raise OSError(errno.EADDRINUSE, f"no {size} neighbouring free ports between {low} and {high}")


def bind_error(host: str, port: int) -> OSError | None:
    """Why this address cannot be listened on; None when it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As HAProxy binds: a connection in TIME_WAIT is no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as exc:
            return exc
    return None
