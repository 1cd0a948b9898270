"""Operations on ports: what listens in the sandbox, and a way for the host to connect to it."""

import _socket
import os
import sys

from . import relay
from .asked import whole
from .frames import RESULT, encode
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .channel import Channel

_LISTENING = "0A"
_CONNECT_LIMIT_S = 10.0
_MOST_PORTS = 1000
_TABLES = {"/proc/net/tcp": _socket.AF_INET, "/proc/net/tcp6": _socket.AF_INET6}
_LOOPBACK = ((_socket.AF_INET, "127.0.0.1"), (_socket.AF_INET6, "::1"))


def list_ports(channel: "Channel", request: "dict[str, object]") -> "dict[str, object]":  # noqa: ARG001 - every operation has it
    found = [one for one in _listening() if one[1] != channel.inside.egress_port][:_MOST_PORTS]
    owners = _owners({inode for _, _, inode in found})
    ports = []
    for address, port, inode in found:
        entry: dict[str, object] = {"port": port, "address": address}
        if inode in owners:
            entry["pid"] = owners[inode]
        ports.append(entry)
    return {"ports": ports}


def tunnel(channel: "Channel", request: "dict[str, object]") -> None:
    """The connection carries that of the port from here on."""
    connection = _connect(whole(request, "port", least=1, most=65535))
    try:
        channel.send(RESULT, encode({"raw": True}))
        relay.join(channel.connection, connection, channel.take_raw())
    finally:
        connection.close()


def _connect(port: int) -> _socket.socket:
    for family, address in _LOOPBACK:
        try:
            connection = _socket.socket(family, _socket.SOCK_STREAM)
        except OSError:
            continue  # no IPv6 here
        try:
            connection.settimeout(_CONNECT_LIMIT_S)
            connection.connect((address, port))
            connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            connection.settimeout(None)
        except OSError:
            connection.close()
        else:
            return connection
    raise Refused("failed", f"Nothing answers on port {port}.")


def _listening() -> "Iterator[tuple[str, int, int]]":
    """Address, port and inode of each socket."""
    for path, family in _TABLES.items():
        try:
            with open(path, encoding="ascii") as table:  # noqa: PTH123 - pathlib is expensive to import
                next(table, None)
                for line in table:
                    fields = line.split()
                    if fields[3] == _LISTENING:
                        address, _, port = fields[1].partition(":")
                        yield _socket.inet_ntop(family, _in_order(address)), int(port, 16), int(fields[9])
        except OSError:
            continue


def _in_order(address: str) -> bytes:
    """The kernel writes each four bytes as a number of this machine's byte order."""
    raw = bytes.fromhex(address)
    words = [raw[start : start + 4] for start in range(0, len(raw), 4)]
    return b"".join(int.from_bytes(word, "big").to_bytes(4, sys.byteorder) for word in words)


def _owners(inodes: "set[int]") -> "dict[int, int]":
    """Which process has which socket open, as far as we may look."""
    found: dict[int, int] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - pathlib is expensive to import
        if len(found) == len(inodes):
            break
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - the same
                name = os.readlink(f"/proc/{pid}/fd/{fd}")  # noqa: PTH115 - the same
                if name.startswith("socket:[") and int(name[8:-1]) in inodes:
                    found.setdefault(int(name[8:-1]), int(pid))
        except OSError:
            continue
    return found
