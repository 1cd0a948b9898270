"""Operations on single files: read, write, edit, stat, move, mkdir."""

import _thread
import os

from . import paths
from .asked import MOST, flag, text, whole
from .channel import Channel
from .frames import DATA, END
from .refusals import BadFrame, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from .paths import Place

PART_SUFFIX = b".aether-part"
"""Files being written have a name that ends so, until they are whole."""
_CHUNK_BYTES = 512 * 1024
_MOST_EDITED_BYTES = 16 * 1024 * 1024
_NEW_MODE = 0o644
_MOST_NS = 2**63 - 1

_edits = _thread.allocate_lock()
"""Two edits of one file would each write what it had read."""


def read(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    offset = whole(request, "offset", 0)
    limit = whole(request, "limit", MOST)
    with paths.roots_of(channel).resolve(text(request, "path")) as place:
        fd = open_file(place, os.O_RDONLY)
        try:
            status = os.fstat(fd)
            channel.event(
                {
                    "event": "file",
                    "size": status.st_size,
                    "mtime_ns": bounded_ns(status.st_mtime_ns),
                    "mode": status.st_mode & 0o7777,
                }
            )
            # What is appended while it is read would never end.
            send_contents(
                channel,
                fd,
                offset,
                min(limit, max(0, status.st_size - offset)),
            )
        finally:
            os.close(fd)
    return {}


def send_contents(channel: Channel, fd: int, offset: int, length: int) -> int:
    """Send up to `length` bytes as `DATA`, fewer where the file ends. Returns how many."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, max(1, length))))
    sent = 0
    while sent < length:
        count = os.preadv(fd, [buffer[: length - sent]], offset + sent)
        if not count:
            break
        channel.data(buffer[:count])
        sent += count
    return sent


def write(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    path = text(request, "path")
    mode = whole(request, "mode", most=0o777) if "mode" in request else None
    is_exclusive, appends = flag(request, "exclusive"), flag(request, "append")
    if is_exclusive and appends:
        raise Refused("bad_request", "A file cannot be both exclusive and appended to.")
    make_parents = flag(request, "make_parents")
    with paths.roots_of(channel).resolve(path, follow=not is_exclusive, make_parents=make_parents) as place:
        if appends:
            return {"size": _append(channel, place, mode)}
        status = place.look_or_none()
        if status is not None:
            if is_exclusive:
                raise Refused("exists", f"{path}: it is there already.")
            _refuse_all_but_files(status.st_mode, path)
        with Part(place) as part:
            size = _receive_into(channel, part.fd)
            part.finish(mode if mode is not None else _mode_of(status), is_exclusive=is_exclusive)
    return {"size": size}


def edit(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    path = text(request, "path")
    try:
        old, new = (_exact(request, name) for name in ("old", "new"))
    except UnicodeEncodeError as exc:
        raise Refused("bad_request", "old and new must be text that UTF-8 can hold.") from exc
    if not old:
        raise Refused("bad_request", "old must not be empty.")
    with paths.roots_of(channel).resolve(path) as place, _edits:
        fd = open_file(place, os.O_RDONLY)
        try:
            before = os.fstat(fd)
            content = _read_text(fd, before.st_size, path)
        finally:
            os.close(fd)
        found = _count_places(content, old)
        if not found:
            raise Refused("edit_conflict", f"{path}: the text to replace is not in it.")
        if found > 1 and not flag(request, "all"):
            raise Refused("edit_conflict", f"{path}: the text to replace is in it more than once.", found=found)
        replaced = content.count(old)
        with Part(place) as part:
            write_all(part.fd, content.replace(old, new))
            now = place.look()
            if (now.st_ino, now.st_mtime_ns, now.st_size) != (before.st_ino, before.st_mtime_ns, before.st_size):
                raise Refused("edit_conflict", f"{path}: somebody else has changed it meanwhile.")
            part.finish(_mode_of(before))
    return {"replaced": replaced}


def _exact(request: "dict[str, object]", name: str) -> bytes:
    value = request.get(name)
    if not isinstance(value, str):
        raise Refused("bad_request", f"{name} must be text.")
    return value.encode()


def stat(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    path = text(request, "path")
    with paths.roots_of(channel).resolve(path, follow=False) as place:
        return entry_of(path, place.look(), place.folder, place.name)


def entry_of(shown: str, status: os.stat_result, folder: int, name: bytes) -> "dict[str, object]":
    """One entry as the protocol shows it."""
    entry: dict[str, object] = {
        "path": shown,
        "kind": paths.kind_of(status.st_mode),
        "size": status.st_size,
        "mtime_ns": bounded_ns(status.st_mtime_ns),
        "mode": status.st_mode & 0o7777,
    }
    if paths.is_link(status.st_mode):
        try:
            entry["target"] = paths.to_text(os.readlink(name, dir_fd=folder))
        except OSError:
            entry["target"] = ""  # replaced since it was looked at
    return entry


def bounded_ns(moment_ns: int) -> int:
    """A time as the host takes it: of 64 bits. Files may be of the year 1600 or 2300, and some archives' are."""
    return min(max(moment_ns, -_MOST_NS), _MOST_NS)


def mkdir(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    path = text(request, "path")
    with paths.roots_of(channel).resolve(path, make_parents=True) as place:
        try:
            os.mkdir(place.name, 0o755, dir_fd=place.folder)
        except FileExistsError:
            if not paths.is_folder(place.look().st_mode):
                raise
    return {}


def move(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    source, target = text(request, "from"), text(request, "to")
    replaces = flag(request, "replace")
    roots = paths.roots_of(channel)
    with roots.resolve(source, follow=False) as old, roots.resolve(target, follow=False) as new:
        status = old.look()
        there = new.look_or_none()
        if there is not None and not replaces:
            raise Refused("exists", f"{target}: it is there already.")
        if there is not None and paths.is_folder(there.st_mode) and not paths.is_folder(status.st_mode):
            raise Refused("is_a_directory", f"{target}: it is a directory.")
        try:
            os.rename(old.own_name(), new.own_name(), src_dir_fd=old.folder, dst_dir_fd=new.folder)
        except OSError as exc:
            if exc.errno != _OTHER_FILE_SYSTEM:
                raise paths.refusal(exc, target if old.look_or_none() else source) from exc
            _move_across(channel, old, new, status)
    return {}


_OTHER_FILE_SYSTEM = 18  # EXDEV


def _move_across(channel: Channel, old: "Place", new: "Place", status: os.stat_result) -> None:
    """/work, /tmp and home may be mounts of their own, between which nothing can be renamed."""
    if not paths.is_file(status.st_mode):
        raise Refused("bad_path", f"{old.shown}: only plain files can be moved there; use exec with mv.")
    fd = open_file(old, os.O_RDONLY)
    try:
        with Part(new) as part:
            while os.sendfile(part.fd, fd, None, _CHUNK_BYTES):
                if channel.is_cancelled():
                    raise Refused("failed", "The move was cancelled.")
            os.utime(part.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            part.finish(_mode_of(status))
    finally:
        os.close(fd)
    os.unlink(old.name, dir_fd=old.folder)


def open_file(place: "Place", flags: int, mode: int = 0o600) -> int:
    """Only a plain file; what waits or acts when it is opened is none."""
    fd = place.open(flags, mode)
    try:
        _refuse_all_but_files(os.fstat(fd).st_mode, place.shown)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Part:
    """A file that is being written beside its place, and takes it when it is whole; otherwise it disappears."""

    def __init__(self, place: "Place") -> None:
        self._place = place
        place.own_name()
        self._name = b"." + os.urandom(8).hex().encode() + PART_SUFFIX
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(self._name, flags, 0o600, dir_fd=place.folder)

    def __enter__(self) -> "Self":
        return self

    def finish(self, mode: int, *, is_exclusive: bool = False) -> None:
        os.fchmod(self.fd, mode)
        folder, name = self._place.folder, self._place.name
        if is_exclusive:
            os.link(self._name, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.rename(self._name, name, src_dir_fd=folder, dst_dir_fd=folder)

    def __exit__(self, *_error: object) -> None:
        os.close(self.fd)
        try:
            os.unlink(self._name, dir_fd=self._place.folder)
        except FileNotFoundError:
            return  # it has taken its place


def _append(channel: Channel, place: "Place", mode: "int | None") -> int:
    is_new = place.look_or_none() is None
    fd = open_file(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _NEW_MODE)
    try:
        if is_new and mode is not None:
            os.fchmod(fd, mode)
        _receive_into(channel, fd)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _receive_into(channel: Channel, fd: int) -> int:
    size = 0
    for chunk in incoming(channel):
        write_all(fd, chunk)
        size += len(chunk)
    return size


class incoming:  # noqa: N801 - used like a function; a generator would not be closed in time
    """The pieces of `DATA` until `END`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __iter__(self) -> "incoming":
        return self

    def __next__(self) -> bytes:
        kind, payload = self._channel.receive()
        if kind == END:
            raise StopIteration
        if kind != DATA:
            raise BadFrame("only DATA and END may come here")
        return payload


def write_all(fd: int, data: "bytes | memoryview") -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_text(fd: int, size: int, path: str) -> bytes:
    if size > _MOST_EDITED_BYTES:
        raise Refused("bad_request", f"{path}: files above {_MOST_EDITED_BYTES} bytes must be written whole.")
    pieces = []
    left = _MOST_EDITED_BYTES
    while left > 0 and (piece := os.read(fd, left)):
        pieces.append(piece)
        left -= len(piece)
    content = b"".join(pieces)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Refused("not_text", f"{path}: it is no UTF-8 text.") from exc
    return content


def _count_places(content: bytes, old: bytes) -> int:
    """Overlapping ones too: `aa` may be replaced in `aaa` in two ways. No more than 1000 are counted."""
    found, at = 0, content.find(old)
    while at >= 0 and found < 1000:
        found += 1
        at = content.find(old, at + 1)
    return found


def _mode_of(status: "os.stat_result | None") -> int:
    return _NEW_MODE if status is None else status.st_mode & 0o777


def _refuse_all_but_files(mode: int, path: str) -> None:
    if paths.is_folder(mode):
        raise Refused("is_a_directory", f"{path}: it is a directory.")
    if not paths.is_file(mode):
        raise Refused("bad_path", f"{path}: it is no plain file.")
