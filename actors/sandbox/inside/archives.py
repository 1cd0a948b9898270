"""Operations that send many files as one stream: pack and tar."""

import errno
import os
import tarfile

from . import files, listing, paths
from .asked import text, texts
from .channel import Channel
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from .paths import Place, Roots

_GATHERED_BYTES = 256 * 1024
_GONE = b"\xff" * 8


class _Gathering:
    """Small pieces become large frames."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._buffer = bytearray()

    def add(self, piece: bytes) -> None:
        self._buffer += piece
        if len(self._buffer) >= _GATHERED_BYTES:
            self.flush()

    def add_file(self, fd: int, size: int) -> None:
        """Exactly `size` bytes of a file, with zeros for what it has lost meanwhile."""
        if size <= _GATHERED_BYTES:
            self.add(os.pread(fd, size, 0).ljust(size, b"\0"))
            return
        self.flush()
        sent = files.send_contents(self._channel, fd, 0, size)
        while sent < size:
            zeros = bytes(min(_GATHERED_BYTES, size - sent))
            self._channel.data(zeros)
            sent += len(zeros)

    def flush(self) -> None:
        if self._buffer:
            self._channel.data(self._buffer)
            self._buffer = bytearray()


def pack(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    out = _Gathering(channel)
    with _Folders(paths.roots_of(channel)) as folders:
        for path in texts(request, "paths"):
            fd = folders.open_file(path)
            if fd is None:
                out.add(_GONE)
            else:
                try:
                    size = os.fstat(fd).st_size
                    out.add(size.to_bytes(8, "big"))
                    out.add_file(fd, size)
                finally:
                    os.close(fd)
            if channel.is_cancelled():
                raise Refused("failed", "It was cancelled.")
    out.flush()
    return {}


class _Folders:
    """Opens files of which neighbours are asked for together: their folder is walked to once."""

    def __init__(self, roots: "Roots") -> None:
        self._roots = roots
        self._path = ""
        self._folder: int | None = None

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_error: object) -> None:
        self._leave()

    def open_file(self, path: str) -> "int | None":
        """None: there is no plain file."""
        above, slash, name = path.rpartition("/")
        try:
            if self._folder is None or above != self._path:
                self._leave()
                self._folder, self._path = self._roots.open_folder(above or (slash or ".")), above
            return files.open_file(paths.Place(self._folder, paths.to_bytes(name), path), os.O_RDONLY)
        except Refused as exc:
            if exc.code == "bad_path":
                raise
            return None
        except OSError as exc:
            if exc.errno in {errno.EMFILE, errno.ENFILE}:
                raise paths.refusal(exc, path) from exc
            return None

    def _leave(self) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None


def tar(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    """Plain files, folders and links; what is neither is left out. Nothing is followed."""
    out = _Gathering(channel)
    with paths.roots_of(channel).resolve(text(request, "path")) as place:
        top = place.open_folder()
        found = listing.walk(top, listing.MOST_DEPTH, lambda names: not names[-1].endswith(files.PART_SUFFIX))
        try:
            for folder, names, status in found:
                _add_member(out, paths.Place(folder, names[-1], paths.to_text(b"/".join(names))), status)
                if channel.is_cancelled():
                    raise Refused("failed", "It was cancelled.")
        finally:
            found.close()
            os.close(top)
    out.add(bytes(2 * tarfile.BLOCKSIZE))
    out.flush()
    return {}


def _add_member(out: _Gathering, place: "Place", status: os.stat_result) -> None:
    member = tarfile.TarInfo(place.shown)
    member.mode = status.st_mode & 0o7777
    seconds, nanoseconds = divmod(abs(status.st_mtime_ns), 1_000_000_000)
    # As text the header keeps all nine digits, where a float does not.
    member.pax_headers = {"mtime": f"{'-' if status.st_mtime_ns < 0 else ''}{seconds}.{nanoseconds:09d}"}
    try:
        if paths.is_folder(status.st_mode):
            member.type = tarfile.DIRTYPE
            out.add(_header(member))
        elif paths.is_link(status.st_mode):
            member.type = tarfile.SYMTYPE
            member.linkname = paths.to_text(os.readlink(place.name, dir_fd=place.folder))
            out.add(_header(member))
        elif paths.is_file(status.st_mode):
            fd = files.open_file(place, os.O_RDONLY)
            try:
                member.size = os.fstat(fd).st_size
                out.add(_header(member))
                out.add_file(fd, member.size)
                out.add(bytes(-member.size % tarfile.BLOCKSIZE))
            finally:
                os.close(fd)
    except FileNotFoundError:
        return  # gone since it was found
    except Refused:
        return  # replaced by something else since


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
