"""The operation untar: an archive that may be hostile becomes files below one folder, and nothing anywhere else."""

import errno
import os
import tarfile

from . import files, paths
from .asked import flag, text
from .channel import Channel
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    Parts = tuple[bytes, ...]

_MOST_HEADER_BYTES = 256 * 1024
_MOST_DEPTH = 1000
_MOST_LATE_FOLDERS = 100_000
_NAME_BYTES = 255
_ENDS = 2
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_NANOS = 1_000_000_000


def untar(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    """`outward_links`: links that lead out of `path` are made too, as a snapshot needs them. Nothing ever follows them."""
    path = text(request, "path")
    with paths.roots_of(channel).resolve(path) as place:
        top = place.open_folder()
        try:
            unpacking = _Unpacking(_Stream(channel), top, keeps_outward_links=flag(request, "outward_links"))
            count = unpacking.run()
        finally:
            os.close(top)
    return {"files": count}


class _Stream:
    """What the host sends, by length."""

    def __init__(self, channel: Channel) -> None:
        self._pieces = files.incoming(channel)
        self._held = memoryview(b"")

    def take(self, length: int) -> bytes:
        """Exactly so much; what a header says is bounded before it is asked for."""
        if len(self._held) >= length:
            whole, self._held = self._held[:length], self._held[length:]
            return bytes(whole)
        taken = bytearray()
        while len(taken) < length:
            taken += self.take_some(length - len(taken))
        return bytes(taken)

    def take_some(self, most: int) -> memoryview:
        """At least a byte."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                raise Refused("bad_request", "The archive ends in the middle.")
            self._held = memoryview(piece)
        taken, self._held = self._held[:most], self._held[most:]
        return taken

    def skip(self, length: int) -> None:
        while length:
            length -= len(self.take_some(length))

    def finish(self) -> None:
        """What follows an archive's end is padding."""
        for _ in self._pieces:
            continue


class _Extra:
    """What headers before a member's own say about it."""

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.target: bytes | None = None
        self.size: int | None = None
        self.mtime_ns: int | None = None

    def take_records(self, payload: bytes) -> None:
        """Of pax: `<length> <keyword>=<value>\\n`, one behind the other."""
        while payload:
            head, space, _ = payload.partition(b" ")
            length = int(head) if space and head.isdigit() and len(head) < 10 else 0
            if not len(head) + 1 < length <= len(payload) or payload[length - 1 : length] != b"\n":
                raise _bad("a pax header in it is broken")
            keyword, equals, value = payload[len(head) + 1 : length - 1].partition(b"=")
            if not equals:
                raise _bad("a pax header in it is broken")
            self._take(keyword, value)
            payload = payload[length:]

    def _take(self, keyword: bytes, value: bytes) -> None:
        if keyword == b"path":
            self.name = value
        elif keyword == b"linkpath":
            self.target = value
        elif keyword == b"size":
            if not value.isdigit() or len(value) > 18:
                raise _bad("a size in it is no number")
            self.size = int(value)
        elif keyword == b"mtime":
            self.mtime_ns = _nanoseconds(value)
        elif keyword.startswith(b"GNU.sparse"):
            raise _bad("sparse files are not unpacked")


class _Unpacking:
    """One archive. Each member's folder is walked to along open folders, and no link is ever followed."""

    def __init__(self, stream: _Stream, top: int, *, keeps_outward_links: bool) -> None:
        self._stream = stream
        self._top = top
        self._keeps_outward_links = keeps_outward_links
        self._late: list[tuple[Parts, int, int]] = []
        self._folder: tuple[Parts, int] | None = None

    def run(self) -> int:
        """The number of files and links made."""
        count = ends = 0
        extra = _Extra()
        try:
            while ends < _ENDS:
                block = self._stream.take(tarfile.BLOCKSIZE)
                if not any(block):
                    ends += 1
                    continue
                ends = 0
                try:
                    member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                except tarfile.HeaderError as exc:
                    raise _bad("a header in it is broken") from exc
                if self._is_about_the_next(member, extra):
                    continue
                count += self._make(member, extra)
                extra = _Extra()
            self._settle_folders()
        except UnicodeEncodeError as exc:
            raise _bad("a name in it is no text") from exc
        finally:
            self._leave()
        self._stream.finish()
        return count

    def _is_about_the_next(self, member: tarfile.TarInfo, extra: _Extra) -> bool:
        kinds = {
            tarfile.XHDTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        }
        if member.type not in kinds:
            return False
        if not 0 <= member.size <= _MOST_HEADER_BYTES:
            raise _bad(f"a header in it is longer than {_MOST_HEADER_BYTES} bytes")
        payload = self._stream.take(member.size)
        self._stream.skip(-member.size % tarfile.BLOCKSIZE)
        if member.type == tarfile.GNUTYPE_LONGNAME:
            extra.name = payload.rstrip(b"\0")
        elif member.type == tarfile.GNUTYPE_LONGLINK:
            extra.target = payload.rstrip(b"\0")
        elif member.type != tarfile.XGLTYPE:  # what is said of all members says nothing we need
            extra.take_records(payload)
        return True

    def _make(self, member: tarfile.TarInfo, extra: _Extra) -> int:
        raw = extra.name if extra.name is not None else member.name.encode("utf-8", "surrogateescape")
        parts = _parts_of(raw)
        size = extra.size if extra.size is not None else member.size
        mtime_ns = extra.mtime_ns if extra.mtime_ns is not None else int(member.mtime) * _NANOS
        mtime_ns = files.bounded_ns(mtime_ns)
        shown = paths.to_text(raw)[:200]
        is_file = member.type in _FILES and not raw.endswith(b"/")
        if size < 0 or (size and not is_file):
            raise _bad(f"{shown} has contents it cannot have")
        if member.type == tarfile.DIRTYPE or (member.type in _FILES and not is_file):
            if parts:
                self._make_folder(parts, member.mode & 0o777, mtime_ns)
            return 0
        if not parts:
            raise _bad(f"{shown} is no name for a file")
        target = extra.target if extra.target is not None else member.linkname.encode("utf-8", "surrogateescape")
        folder = self._enter(parts[:-1])
        if is_file:
            self._make_file(folder, parts[-1], size, member.mode & 0o777, mtime_ns)
        elif member.type == tarfile.SYMTYPE:
            self._make_symbolic_link(folder, parts, target, mtime_ns)
        elif member.type == tarfile.LNKTYPE:
            self._make_hard_link(folder, parts, target)
        else:
            raise _bad(f"{shown} is no plain file, folder or link")
        return 1

    def _make_folder(self, parts: "Parts", mode: int, mtime_ns: int) -> None:
        folder = self._enter(parts[:-1])
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=folder)
        except FileExistsError:
            self._enter(parts)  # refuses what is no folder
        # It must stay writable until all is in it.
        if len(self._late) < _MOST_LATE_FOLDERS:
            self._late.append((parts, mode, mtime_ns))
        else:
            self._settle(parts, mode | 0o700, mtime_ns)

    def _make_file(self, folder: int, name: bytes, size: int, mode: int, mtime_ns: int) -> None:
        _clear(folder, name)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            left = size
            while left:
                piece = self._stream.take_some(left)
                files.write_all(fd, piece)
                left -= len(piece)
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        except BaseException:
            _clear(folder, name)
            raise
        finally:
            os.close(fd)
        self._stream.skip(-size % tarfile.BLOCKSIZE)

    def _make_symbolic_link(self, folder: int, parts: "Parts", target: bytes, mtime_ns: int) -> None:
        if not target or b"\0" in target:
            raise _bad("a link in it leads nowhere")
        if not self._keeps_outward_links and not _stays_inside(parts[:-1], target):
            raise Refused("bad_path", f"The archive is refused: {paths.to_text(parts[-1])} is a link that leads out.")
        _clear(folder, parts[-1])
        os.symlink(target, parts[-1], dir_fd=folder)
        os.utime(parts[-1], ns=(mtime_ns, mtime_ns), dir_fd=folder, follow_symlinks=False)

    def _make_hard_link(self, folder: int, parts: "Parts", target: bytes) -> None:
        there = _parts_of(target)
        if not there or there == parts:
            raise _bad("a link in it leads nowhere")
        folder = os.dup(folder)  # the next walk leaves it
        try:
            source = self._enter(there[:-1], make=False)
            if not paths.is_file(os.stat(there[-1], dir_fd=source, follow_symlinks=False).st_mode):
                raise _bad("a hard link in it leads to what is no plain file")
            _clear(folder, parts[-1])
            os.link(there[-1], parts[-1], src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)

    def _enter(self, parts: "Parts", *, make: bool = True) -> int:
        """The folder a member is in, open until the next one is entered; made where it is missing."""
        if self._folder is not None and self._folder[0] == parts:
            return self._folder[1]
        self._leave()
        step = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        current = os.dup(self._top)
        try:
            for part in parts:
                try:
                    below = os.open(part, step, dir_fd=current)
                except FileNotFoundError:
                    if not make:
                        raise
                    os.mkdir(part, 0o755, dir_fd=current)
                    below = os.open(part, step, dir_fd=current)
                os.close(current)
                current = below
        except OSError as exc:
            os.close(current)
            if exc.errno in {errno.ENOTDIR, errno.ELOOP}:
                where = paths.to_text(b"/".join(parts))[:200]
                raise Refused("bad_path", f"The archive is refused: {where} leads through what is no folder.") from exc
            raise
        self._folder = (parts, current)
        return current

    def _leave(self) -> None:
        if self._folder is not None:
            os.close(self._folder[1])
            self._folder = None

    def _settle_folders(self) -> None:
        """Deepest first: what is done in a folder changes its time, and its mode may lock it."""
        for parts, mode, mtime_ns in reversed(self._late):
            self._settle(parts, mode, mtime_ns)

    def _settle(self, parts: "Parts", mode: int, mtime_ns: int) -> None:
        folder = paths.open_folder(self._enter(parts, make=False), b".")
        try:
            os.fchmod(folder, mode)
            os.utime(folder, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(folder)


def _parts_of(raw: bytes) -> "Parts":
    if raw.startswith(b"/") or b"\0" in raw or len(raw) > paths.MOST_PATH_BYTES:
        raise Refused("bad_path", "The archive is refused: it has a name that is absolute, too long or none.")
    parts = tuple(part for part in raw.split(b"/") if part not in {b"", b"."})
    if b".." in parts or len(parts) > _MOST_DEPTH or any(len(part) > _NAME_BYTES for part in parts):
        raise Refused("bad_path", f"The archive is refused: {paths.to_text(raw)[:200]} leads out, or too deep.")
    return parts


def _stays_inside(above: "Parts", target: bytes) -> bool:
    if target.startswith(b"/"):
        return False
    depth = len(above)
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return False
        elif part not in {b"", b"."}:
            depth += 1
    return True


def _clear(folder: int, name: bytes) -> None:
    """A file or link in a member's place goes; a folder stays, and the member is refused."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _nanoseconds(value: bytes) -> int:
    sign = -1 if value.startswith(b"-") else 1
    whole, _, fraction = value.lstrip(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 18 or (fraction and not fraction.isdigit()):
        raise _bad("a time in it is no number")
    return sign * (int(whole) * _NANOS + int(fraction[:9].ljust(9, b"0") or 0))


def _bad(why: str) -> Refused:
    return Refused("bad_path", f"The archive is refused: {why}.")
