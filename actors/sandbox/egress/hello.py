"""The name a TLS client asks for (SNI, RFC 6066), read from the beginning of its connection.

Why it must be the name of the tunnel: many names share one address, and the server chooses by SNI. Without the check one
allowed name would open every site beside it (domain fronting), and the log would tell of hosts nobody spoke with; so two
names that are both allowed may not stand in for each other either. What is inside of TLS, the `Host` of a request, is
not seen: who allows a name trusts its server not to answer for others. The same holds for an encrypted hello (ECH): its
outer name is checked, and that there may be an inner one is noted. It is not refused, because browsers send the
extension with random bytes in it when there is none.
"""

from dataclasses import dataclass

MOST_BYTES = 32 * 1024
"""Of a hello. Those with post-quantum keys take about 2 KiB."""
_RECORD_HEAD_BYTES = 5
_MESSAGE_HEAD_BYTES = 4
_MOST_RECORDS = 64
_MOST_RECORD_BYTES = 2**14
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ECH = 0xFE0D
_HOST_NAME = 0
_ACCESS_DENIED = 49
ALERT = bytes((21, 3, 3, 0, 2, 2, _ACCESS_DENIED))
"""A fatal `access_denied` (RFC 8446), which clients show better than a connection that breaks."""


class NotHelloError(ValueError):
    """These bytes do not begin a TLS connection."""


@dataclass(frozen=True)
class Hello:
    """`name` as it stands there in lower case; None: no name is asked for."""

    name: str | None
    has_ech: bool


class _Reader:
    """Reads numbers and blocks off bytes, and never past their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise NotHelloError("a length in the hello leads past its end")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def block(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))


def is_tls(start: bytes) -> bool:
    """Whether the first bytes, at least one, look like a TLS handshake."""
    return start[0] == _HANDSHAKE and (len(start) < 2 or start[1] == 3)


class HelloReader:
    """Puts a hello together: it may come in several records, and a record in any number of pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._message = bytearray()
        self._records = 0

    def feed(self, data: bytes) -> Hello | None:
        """None: more is needed. Raises `NotHelloError`, also when it is too long."""
        rest = self._rest + data
        while len(rest) >= _RECORD_HEAD_BYTES:
            size = int.from_bytes(rest[3:5])
            if rest[0] != _HANDSHAKE or rest[1] != 3 or not 0 < size <= _MOST_RECORD_BYTES:
                raise NotHelloError("not a TLS handshake")
            if len(rest) < _RECORD_HEAD_BYTES + size:
                break
            self._records += 1
            self._message += rest[_RECORD_HEAD_BYTES : _RECORD_HEAD_BYTES + size]
            rest = rest[_RECORD_HEAD_BYTES + size :]
            if (hello := self._whole()) is not None:
                return hello
            if self._records == _MOST_RECORDS:
                raise NotHelloError("the TLS hello comes in too many records")
        if rest[:1] and rest[0] != _HANDSHAKE:
            raise NotHelloError("not a TLS handshake")
        self._rest = rest
        return None

    def _whole(self) -> Hello | None:
        if self._message[0] != _CLIENT_HELLO:
            raise NotHelloError("not a TLS hello")
        if len(self._message) < _MESSAGE_HEAD_BYTES:
            return None
        size = int.from_bytes(self._message[1:4])
        if size > MOST_BYTES:
            raise NotHelloError("the TLS hello is too long")
        if len(self._message) < _MESSAGE_HEAD_BYTES + size:
            return None
        return _parsed(bytes(self._message[_MESSAGE_HEAD_BYTES : _MESSAGE_HEAD_BYTES + size]))


def _parsed(body: bytes) -> Hello:
    reader = _Reader(body)
    reader.take(2 + 32)  # version, random
    reader.block(1)  # session id
    reader.block(2)  # cipher suites
    reader.block(1)  # compression methods
    if reader.is_at_end:
        return Hello(None, has_ech=False)
    extensions = _Reader(reader.block(2))
    if not reader.is_at_end:
        raise NotHelloError("something comes after the extensions")
    found: dict[int, bytes] = {}
    while not extensions.is_at_end:
        kind = extensions.number(2)
        if kind in found:
            # Which of two names a server takes is its own business, so there may be only one.
            raise NotHelloError("an extension is there twice")
        found[kind] = extensions.block(2)
    name = _name(found[_SERVER_NAME]) if _SERVER_NAME in found else None
    return Hello(name, has_ech=_ECH in found)


def _name(extension: bytes) -> str:
    outer = _Reader(extension)
    names = _Reader(outer.block(2))
    kind, name = names.number(1), names.block(2)
    if kind != _HOST_NAME or not names.is_at_end or not outer.is_at_end:
        raise NotHelloError("the server's name is not one name")
    try:
        return name.decode("ascii").lower().removesuffix(".")
    except UnicodeDecodeError:
        raise NotHelloError("the server's name is not ASCII") from None
