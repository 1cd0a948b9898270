"""The operation watch: what changes below a folder, from inotify where it can be had, else by looking again and again."""

import ctypes
import os
import select
from struct import Struct
from time import monotonic

from . import files, listing, paths
from .asked import text
from .channel import Channel
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    Parts = tuple[bytes, ...]

    class Source(Protocol):
        """Where changes are learnt. `take` never waits, and is called when `fd` is readable or `pause_s` have passed."""

        fd: int
        pause_s: float

        def take(self, changes: "_Changes") -> None: ...

        def close(self) -> None: ...


_EVERY_S = 0.1
_MOST_PATHS = 1000
_MOST_PATH_BYTES = 180 * 1024
_MOST_WATCHED = 8192
_MOST_POLLED = 50_000
_POLL_S = 1.0
_POLL_SHARE = 10
"""Looking takes at most one part in so many of the time."""
_EVENT = Struct("iIII")
_MODIFY, _ATTRIB, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLY_FOLDERS, _IS_FOLDER = 0x0100_0000, 0x4000_0000
_MASK = _MODIFY | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLY_FOLDERS


def watch(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    path = text(request, "path")
    top = paths.roots_of(channel).open_folder(path)
    try:
        source = _source(top)
        try:
            _serve(channel, source, path)
        finally:
            source.close()
    finally:
        os.close(top)
    return {}


def _serve(channel: Channel, source: "Source", path: str) -> None:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    if source.fd >= 0:
        poll.register(source.fd, select.POLLIN)
    changes = _Changes()
    looks_at = monotonic() + source.pause_s
    sends_at = 0.0
    while True:
        due_at = sends_at if changes else looks_at
        if not channel.has_buffered():
            poll.poll(max(0.0, due_at - monotonic()) * 1000)
        if channel.is_cancelled():
            return
        source.take(changes)
        looks_at = monotonic() + source.pause_s
        if changes.has_lost_top:
            raise Refused("not_found", f"{path}: the folder is gone.")
        if changes and monotonic() >= sends_at:
            channel.event(changes.take())
            sends_at = monotonic() + _EVERY_S


class _Changes:
    """What has changed since the last event; `cut` when it was more than one event can say."""

    def __init__(self) -> None:
        self.has_lost_top = False
        self.is_cut = False
        self._paths: dict[str, None] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._paths) or self.is_cut

    def add(self, names: "Parts") -> None:
        if names[-1].endswith(files.PART_SUFFIX):
            return
        path = paths.to_text(b"/".join(names))
        if path in self._paths:
            return
        size = listing.json_bytes(path)
        if (
            len(path) > listing.MOST_PATH_LETTERS
            or len(self._paths) >= _MOST_PATHS
            or self._bytes + size > _MOST_PATH_BYTES
        ):
            self.is_cut = True
            return
        self._paths[path] = None
        self._bytes += size

    def take(self) -> "dict[str, object]":
        event: dict[str, object] = {"event": "changed", "paths": list(self._paths)}
        if self.is_cut:
            event["cut"] = True
        self._paths, self._bytes, self.is_cut = {}, 0, False
        return event


def _source(top: int) -> "Source":
    try:
        return _Inotify(top)
    except OSError:
        # Forbidden, or the machine has no more watches to give.
        return _Looking(top)


class _Inotify:
    """Each folder is watched by its descriptor: no link made meanwhile leads elsewhere."""

    pause_s = 1.0

    def __init__(self, top: int) -> None:
        self._top = top
        self._library = ctypes.CDLL(None, use_errno=True)
        self.fd = self._checked(self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._watched: dict[int, Parts] = {}
        try:
            self._add_tree((), None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.fd)

    def take(self, changes: _Changes) -> None:
        # It is open, so the kernel does not tell of its end.
        changes.has_lost_top = not os.fstat(self._top).st_nlink
        try:
            buffer = os.read(self.fd, 64 * 1024)
        except BlockingIOError:
            return
        at = 0
        while at < len(buffer):
            number, mask, _, length = _EVENT.unpack_from(buffer, at)
            at += _EVENT.size + length
            self._take_one(number, mask, buffer[at - length : at].rstrip(b"\0"), changes)

    def _take_one(self, number: int, mask: int, name: bytes, changes: _Changes) -> None:
        above = self._watched.get(number)
        if mask & _OVERFLOW:
            changes.is_cut = True
        elif above is None:
            return
        elif mask & _IGNORED:
            del self._watched[number]
        elif name:
            names = (*above, name)
            changes.add(names)
            if mask & _IS_FOLDER and mask & (_CREATE | _MOVED_TO):
                try:
                    self._add_tree(names, changes)
                except OSError:
                    changes.is_cut = True
            elif mask & _IS_FOLDER and mask & _MOVED_FROM:
                self._forget_tree(names)

    def _add_tree(self, names: "Parts", changes: "_Changes | None") -> None:
        """What is in a new folder by now was made before anybody watched it: that has changed as well."""
        if not self._add(names):
            return
        try:
            top = paths.open_below(self._top, names)
        except OSError:
            return
        try:
            folder = paths.open_folder(top, b".")
        except OSError:
            return
        finally:
            os.close(top)
        try:
            for _, below, status in listing.walk(folder, listing.MOST_DEPTH, lambda _: True):
                if changes is not None:
                    changes.add((*names, *below))
                if paths.is_folder(status.st_mode):
                    self._add((*names, *below))
        finally:
            os.close(folder)

    def _add(self, names: "Parts") -> bool:
        """False: it is gone. `OSError`: there cannot be more."""
        if len(self._watched) >= _MOST_WATCHED:
            raise OSError(28, "too many folders")
        try:
            folder = paths.open_below(self._top, names)
        except OSError:
            return False
        try:
            path = f"/proc/self/fd/{folder}".encode()
            self._watched[self._checked(self._library.inotify_add_watch(self.fd, path, _MASK))] = names
        finally:
            os.close(folder)
        return True

    def _forget_tree(self, names: "Parts") -> None:
        for number in [number for number, watched in self._watched.items() if watched[: len(names)] == names]:
            self._library.inotify_rm_watch(self.fd, number)
            del self._watched[number]

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        return result


class _Looking:
    """Compares what is there with what was there."""

    fd = -1

    def __init__(self, top: int) -> None:
        self._top = top
        self._is_cut = False
        self._looks_at = 0.0
        self.pause_s = _POLL_S
        self._known = self._look()

    def close(self) -> None:
        self._known.clear()

    def take(self, changes: _Changes) -> None:
        if monotonic() < self._looks_at:
            return
        found = self._look()
        for names in found.keys() | self._known.keys():
            if found.get(names) != self._known.get(names):
                changes.add(names)
        changes.is_cut = changes.is_cut or (self._is_cut and bool(changes))
        changes.has_lost_top = not os.fstat(self._top).st_nlink
        self._known = found

    def _look(self) -> "dict[Parts, tuple[int, ...]]":
        started_at = monotonic()
        found: dict[Parts, tuple[int, ...]] = {}
        self._is_cut = False
        for _, names, status in listing.walk(self._top, listing.MOST_DEPTH, lambda _: True):
            if len(found) >= _MOST_POLLED:
                self._is_cut = True
                break
            # A folder's own time tells only of what is seen anyway.
            is_folder = paths.is_folder(status.st_mode)
            times = () if is_folder else (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            found[names] = (status.st_ino, status.st_mode, *times)
        self.pause_s = max(_POLL_S, (monotonic() - started_at) * _POLL_SHARE)
        self._looks_at = monotonic() + self.pause_s
        return found
