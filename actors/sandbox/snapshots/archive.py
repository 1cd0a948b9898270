"""Records as members of a tar archive in pax form (POSIX.1-2001), which the sandbox unpacks."""

import os

from actors.sandbox.snapshots.records import Record

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
_NAME_BYTES = 100
_MOST_OCTAL = 8**11 - 1
_TYPES = {"file": b"0", "directory": b"5", "link": b"2"}


def header(record: Record) -> bytes:
    """All that precedes a file's bytes. The root's name is left out: an archive goes into one root."""
    name = os.fsencode(record.path.partition("/")[2])
    target = os.fsencode(record.target)
    size = record.size
    seconds, nanos = divmod(abs(record.mtime_ns), 1_000_000_000)
    sign = b"-" if record.mtime_ns < 0 else b""
    extra = _pax(b"mtime", b"%b%d.%09d" % (sign, seconds, nanos))
    if len(name) > _NAME_BYTES:
        extra += _pax(b"path", name)
    if len(target) > _NAME_BYTES:
        extra += _pax(b"linkpath", target)
    if size > _MOST_OCTAL:
        extra += _pax(b"size", b"%d" % size)
    return b"".join(
        (
            _block(b"pax", 0, len(extra), b"x", b""),
            extra,
            bytes(padding(len(extra))),
            _block(name[:_NAME_BYTES], record.mode, min(size, _MOST_OCTAL), _TYPES[record.kind], target[:_NAME_BYTES]),
        )
    )


def padding(size: int) -> int:
    """How many bytes fill up the last block."""
    return -size % BLOCK_BYTES


def _block(name: bytes, mode: int, size: int, kind: bytes, target: bytes) -> bytes:
    head = name.ljust(_NAME_BYTES, b"\0") + b"%07o\0" % mode + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000000\0"
    tail = kind + target.ljust(_NAME_BYTES, b"\0") + b"ustar\x0000"
    # The sum is taken with eight spaces where it will stand.
    total = sum(head) + sum(tail) + 8 * 32
    return (head + b"%06o\0 " % total + tail).ljust(BLOCK_BYTES, b"\0")


def _pax(keyword: bytes, value: bytes) -> bytes:
    """`<length> <keyword>=<value>\\n`, where the length counts its own digits."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, keyword, value)
