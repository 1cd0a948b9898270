"""Paths of the sandbox: walked part by part along open folders, so that no link leads out, not even one made meanwhile."""

import errno
import os

from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from .channel import Channel

MOST_PATH_BYTES = 16 * 1024
MOST_LINKS = 40
NAMES = {"work": "/work", "tmp": "/tmp", "home": "/home/agent"}  # noqa: S108 - the sandbox's own /tmp
"""How the protocol calls the folders in which files may be reached."""

_FOLDER = 0o040000
_FILE = 0o100000
_LINK = 0o120000
_KIND = 0o170000
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_CODES = {
    errno.ENOENT: ("not_found", "there is no such file"),
    errno.ENOTDIR: ("not_a_directory", "it, or a part of the path, is no directory"),
    errno.EISDIR: ("is_a_directory", "it is a directory"),
    errno.EEXIST: ("exists", "it is there already"),
    errno.ENOTEMPTY: ("exists", "the directory is not empty"),
    errno.EACCES: ("denied", "permission denied"),
    errno.EPERM: ("denied", "not permitted"),
    errno.EROFS: ("denied", "it can only be read"),
    errno.ENOSPC: ("full", "the sandbox's disk is full"),
    errno.EDQUOT: ("full", "the sandbox's disk is full"),
    errno.EFBIG: ("full", "the file would be larger than a file may be"),
    errno.ENOMEM: ("full", "the sandbox's memory is full"),
    errno.EMFILE: ("too_many", "too many files are open"),
    errno.ENFILE: ("too_many", "too many files are open"),
    errno.ELOOP: ("bad_path", "it is a link, or leads through too many"),
    errno.ENAMETOOLONG: ("bad_path", "a name is too long"),
    errno.ENXIO: ("bad_path", "it is no plain file"),
    errno.EINVAL: ("bad_path", "it cannot be there"),
    errno.EXDEV: ("bad_path", "it lies on another file system"),
}


class Place:
    """Where a path leads: an open folder and a name in it, which may not be there yet. To be used with `with`.

    `name` is `.` where the path ends in the folder itself, as `/work` does.
    """

    __slots__ = ("folder", "name", "shown")

    def __init__(self, folder: int, name: bytes, shown: str) -> None:
        self.folder = folder
        self.name = name
        self.shown = shown

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        os.close(self.folder)
        if isinstance(error, OSError):
            raise refusal(error, self.shown) from error

    def look(self) -> os.stat_result:
        """What is there; a link is looked at itself."""
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)

    def look_or_none(self) -> "os.stat_result | None":
        try:
            return self.look()
        except FileNotFoundError:
            return None

    def open(self, flags: int, mode: int = 0o600) -> int:
        """Never through a link, never waiting for the other end of a pipe."""
        safe = flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self.name, safe, mode, dir_fd=self.folder)

    def open_folder(self) -> int:
        return open_folder(self.folder, self.name)

    def own_name(self) -> bytes:
        """Refuses what has no name of its own to be moved or deleted by."""
        if self.name == b".":
            raise Refused("bad_path", f"{self.shown}: this folder itself stays where it is.")
        return self.name


class Roots:
    """The folders below which files may be reached. `folders` maps the keys of `NAMES` to where they really are."""

    def __init__(self, folders: "Mapping[str, str]") -> None:
        self._real = {_parts(NAMES[name]): path for name, path in folders.items()}

    def resolve(self, path: str, *, follow: bool = True, make_parents: bool = False) -> Place:
        """Where `path` leads. `follow`: also through a link at its end.

        Raises:
            Refused: it leads out, or a part of it is missing or no folder.
        """
        try:
            return _Walk(self._real, follow=follow, make_parents=make_parents).go(path)
        except OSError as exc:
            raise refusal(exc, path) from exc

    def open_folder(self, path: str) -> int:
        """For reading what is in it."""
        with self.resolve(path) as place:
            return place.open_folder()


def roots_of(channel: "Channel") -> Roots:
    return Roots({name: path for name, path in channel.inside.roots.items() if name in NAMES})


def open_folder(folder: int, name: bytes) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def open_below(folder: int, names: "tuple[bytes, ...] | list[bytes]") -> int:
    """The folder that `names` lead to, through no link, to go on from. `OSError` where one is none (any more)."""
    current = os.open(b".", _STEP, dir_fd=folder)
    for name in names:
        try:
            below = os.open(name, _STEP, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def kind_of(mode: int) -> str:
    return {_FILE: "file", _FOLDER: "directory", _LINK: "link"}.get(mode & _KIND, "other")


def is_file(mode: int) -> bool:
    return mode & _KIND == _FILE


def is_folder(mode: int) -> bool:
    return mode & _KIND == _FOLDER


def is_link(mode: int) -> bool:
    return mode & _KIND == _LINK


def to_text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def to_bytes(path: str) -> bytes:
    try:
        found = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise Refused("bad_path", "The path is no text that a file system can hold.") from exc
    if not found or b"\0" in found or len(found) > MOST_PATH_BYTES:
        raise Refused("bad_path", f"A path has 1 to {MOST_PATH_BYTES} bytes, and none of them is 0.")
    return found


def refusal(exc: OSError, shown: str) -> Refused:
    """What the system said about the file `shown`, in the protocol's words."""
    number = exc.errno or 0
    code, words = _CODES.get(number, ("failed", os.strerror(number)))
    return Refused(code, f"{shown[:300]}: {words}.")


class _Walk:
    """One walk along a path. `folder` is open and inside a root, or -1 while the walk is still above all roots."""

    def __init__(self, roots: "Mapping[tuple[bytes, ...], str]", *, follow: bool, make_parents: bool) -> None:
        self._roots = roots
        self._follow = follow
        self._make_parents = make_parents
        self._above: list[bytes] = []
        self._root: tuple[bytes, ...] = ()
        self._names: list[bytes] = []
        self._folder = -1
        self._links = 0

    def go(self, path: str) -> Place:
        raw = to_bytes(path)
        start = b"" if raw.startswith(b"/") else NAMES["work"].encode() + b"/"
        pending = list(reversed(_parts(start + raw)))
        try:
            while pending:
                name = pending.pop()
                if name == b"..":
                    self._up()
                elif self._folder < 0:
                    self._down_to_root(name, path)
                elif (place := self._down(name, pending, path)) is not None:
                    return place
            if self._folder < 0:
                raise self._outside(path)
        except BaseException:
            self._enter(-1)
            raise
        return Place(self._folder, b".", path)

    def _down(self, name: bytes, pending: "list[bytes]", path: str) -> "Place | None":
        if not pending and not self._follow:
            return Place(self._folder, name, path)
        try:
            found = os.open(name, _LOOK, dir_fd=self._folder)
        except FileNotFoundError:
            if not pending:
                return Place(self._folder, name, path)
            if not self._make_parents:
                raise
            found = self._make(name)
        try:
            mode = os.fstat(found).st_mode
            if is_link(mode):
                self._through(found, pending)
            elif is_folder(mode) and pending:
                self._enter(found)
                self._names.append(name)
                found = -1
            elif not pending:
                return Place(self._folder, name, path)
            else:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        finally:
            if found >= 0:
                os.close(found)
        return None

    def _through(self, link: int, pending: "list[bytes]") -> None:
        self._links += 1
        if self._links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        # The link itself is open: an empty name reads that one, whatever stands in its place by now.
        target = os.readlink(b"", dir_fd=link)
        if target.startswith(b"/"):
            self._enter(-1)
            self._above = []
        pending += reversed(_parts(target))

    def _make(self, name: bytes) -> int:
        try:
            os.mkdir(name, 0o755, dir_fd=self._folder)
        except FileExistsError:
            return os.open(name, _LOOK, dir_fd=self._folder)  # somebody else made it meanwhile
        return os.open(name, _LOOK, dir_fd=self._folder)

    def _down_to_root(self, name: bytes, path: str) -> None:
        self._above.append(name)
        reached = tuple(self._above)
        real = self._roots.get(reached)
        if real is not None:
            self._enter(os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            self._root, self._names = reached, []
        elif not any(root[: len(reached)] == reached for root in self._roots):
            raise self._outside(path)

    def _up(self) -> None:
        if self._folder < 0:
            del self._above[-1:]
        elif self._names:
            # The folder's own `..` would lead out if somebody moved it; its names are walked again instead.
            self._names.pop()
            root = os.open(self._roots[self._root], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._enter(open_below(root, self._names))
            finally:
                os.close(root)
        else:
            self._enter(-1)
            self._above = list(self._root[:-1])

    def _enter(self, folder: int) -> None:
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = folder

    @staticmethod
    def _outside(path: str) -> Refused:
        return Refused("bad_path", f"{path[:300]}: files are reached below {', '.join(NAMES.values())} only.")


def _parts(path: "str | bytes") -> "tuple[bytes, ...]":
    raw = path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")
    return tuple(part for part in raw.split(b"/") if part not in {b"", b"."})
