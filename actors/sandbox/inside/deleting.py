"""The operation delete: whole trees too, however deep, with two descriptors and through no link."""

import errno
import os

from . import paths
from .asked import flag, text
from .channel import Channel
from .refusals import Refused

_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_IS_FOLDER = (errno.EISDIR, errno.EPERM)


def delete(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    path = text(request, "path")
    is_recursive = flag(request, "recursive")
    with paths.roots_of(channel).resolve(path, follow=False) as place:
        name = place.own_name()
        place.look()
        if _remove(place.folder, name):
            return {}
        if not is_recursive:
            raise Refused("exists", f"{path}: the directory is not empty; ask for recursive.")
        top = _open(place.folder, name)
        try:
            _Emptying(channel, top).run()
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=place.folder)
    return {}


class _Emptying:
    """Empties one folder. What is deeper than its grandchildren is moved up, level by level, until nothing is deeper."""

    def __init__(self, channel: Channel, top: int) -> None:
        self._channel = channel
        self._top = top
        self._prefix = b"." + os.urandom(6).hex().encode()
        self._moved = 0

    def run(self) -> None:
        while names := os.listdir(self._top):  # noqa: PTH208 - by descriptor
            for name in map(os.fsencode, names):
                if not _remove(self._top, name):
                    self._raise_grandchildren(name)
                    _remove(self._top, name)
                if self._channel.is_cancelled():
                    raise Refused("failed", "Deleting was cancelled; a part is gone.")

    def _raise_grandchildren(self, name: bytes) -> None:
        child = _open(self._top, name)
        try:
            for below in map(os.fsencode, os.listdir(child)):  # noqa: PTH208 - by descriptor
                if _remove(child, below):
                    continue
                self._moved += 1
                higher = self._prefix + str(self._moved).encode()
                try:
                    os.rename(below, higher, src_dir_fd=child, dst_dir_fd=self._top)
                except PermissionError:
                    # A folder that may not be written cannot get another parent.
                    os.close(_open(child, below))
                    os.rename(below, higher, src_dir_fd=child, dst_dir_fd=self._top)
                except FileNotFoundError:
                    continue  # somebody else deletes it too
        finally:
            os.close(child)


def _remove(folder: int, name: bytes) -> bool:
    """False: it is a folder with something in it. Gone is removed."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except OSError as exc:
        if exc.errno not in _IS_FOLDER:
            raise
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as again:
            if again.errno in _NOT_EMPTY:
                return False
            if again.errno == errno.ENOTDIR:
                raise exc from None
            raise
    return True


def _open(folder: int, name: bytes) -> int:
    """A folder to empty; its owner may do so whatever its mode says."""
    step = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if os.fstat(step).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{step}", 0o700)  # noqa: PTH101 - by descriptor
        return paths.open_folder(step, b".")
    finally:
        os.close(step)
