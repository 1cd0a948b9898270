"""ClientHellos: real ones from OpenSSL, and others put together byte by byte."""

import contextlib
import ssl


def real_hello(name: str | None) -> bytes:
    """What Python's own TLS client sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def handshake(record: bytes) -> bytes:
    """The message inside of a record."""
    return record[5:]


def in_records(message: bytes, size: int) -> bytes:
    """One message cut into records of `size` bytes."""
    return b"".join(
        b"\x16\x03\x01" + len(piece).to_bytes(2) + piece
        for piece in (message[at : at + size] for at in range(0, len(message), size))
    )


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + len(body).to_bytes(2) + body


def server_name(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(bytes([kind]) + len(name).to_bytes(2) + name for name in names)
    return extension(0, len(entries).to_bytes(2) + entries)


def hello(*extensions: bytes, after: bytes = b"") -> bytes:
    """A record with a hello that has these extensions."""
    block = b"".join(extensions)
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(block).to_bytes(2) + block + after
    return in_records(b"\x01" + len(body).to_bytes(3) + body, 16384)
