"""Operations on whole folders: list and scan; without recursion, in batches, however large and deep a tree is."""

import os

from . import files, paths
from .asked import flag, text, texts, whole
from .channel import Channel
from .refusals import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .paths import Place

MOST_DEPTH = 1000
MOST_PATH_LETTERS = 4096
"""The host takes no longer ones, though a tree may be deeper: what lies there is left out."""
_MOST_LISTED = 100_000
_BATCH_BYTES = 200 * 1024
_EVERY = 256
"""Entries between two looks at whether the host still wants them."""


class Batch:
    """Collects items and sends them as events, each smaller than a frame of JSON may be."""

    def __init__(self, channel: Channel, event: str, field: str) -> None:
        self._channel = channel
        self._event = event
        self._field = field
        self._items: list[object] = []
        self._bytes = 0

    def add(self, item: object, size_bytes: int) -> None:
        """`size_bytes`: at most so long as JSON."""
        if self._bytes + size_bytes > _BATCH_BYTES:
            self.send()
        self._items.append(item)
        self._bytes += size_bytes

    def send(self) -> None:
        if self._items:
            self._channel.event({"event": self._event, self._field: self._items})
            self._items, self._bytes = [], 0


def json_bytes(text: str) -> int:
    """The most that a text takes as JSON in ASCII."""
    return len(text) + 2 if text.isascii() and text.isprintable() else 12 * len(text) + 2


def list_entries(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    depth = whole(request, "depth", 1, least=1, most=MOST_DEPTH)
    limit = whole(request, "limit", 10_000, least=1, most=_MOST_LISTED)
    shows_hidden = flag(request, "hidden", default=True)

    def is_wanted(names: "tuple[bytes, ...]") -> bool:
        return shows_hidden or not names[-1].startswith(b".")

    with paths.roots_of(channel).resolve(text(request, "path")) as place:
        return {"cut": _send_entries(channel, place, depth=depth, limit=limit, is_wanted=is_wanted, for_scan=False)}


def scan(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    """`exclude`: names, wherever they are, or with a `/` paths below the scanned folder."""
    excluded = {tuple(paths.to_bytes(one).strip(b"/").split(b"/")) for one in texts(request, "exclude")}

    def is_wanted(names: "tuple[bytes, ...]") -> bool:
        return names[-1:] not in excluded and names not in excluded and not names[-1].endswith(files.PART_SUFFIX)

    with paths.roots_of(channel).resolve(text(request, "path")) as place:
        most = 2**62
        return {"cut": _send_entries(channel, place, depth=MOST_DEPTH, limit=most, is_wanted=is_wanted, for_scan=True)}


def _send_entries(
    channel: Channel,
    place: "Place",
    *,
    depth: int,
    limit: int,
    is_wanted: "Callable[[tuple[bytes, ...]], bool]",
    for_scan: bool,
) -> bool:
    """Whether something was left out: more than `limit`, or what lies deeper than anybody looks."""
    batch = Batch(channel, "entries", "entries")
    top = place.open_folder()
    found = walk(top, depth, is_wanted)
    count = 0
    is_cut = False
    try:
        for folder, names, status in found:
            if count >= limit:
                is_cut = True
                break
            is_cut = is_cut or (len(names) == MOST_DEPTH and paths.is_folder(status.st_mode))
            path = paths.to_text(b"/".join(names))
            if len(path) > MOST_PATH_LETTERS:
                is_cut = True
                continue
            entry = files.entry_of(path, status, folder, names[-1])
            if for_scan:
                entry |= {"inode": status.st_ino, "ctime_ns": files.bounded_ns(status.st_ctime_ns)}
            batch.add(entry, 200 + sum(json_bytes(str(entry.get(field, ""))) for field in ("path", "target")))
            count += 1
            if count % _EVERY == 0 and channel.is_cancelled():
                raise Refused("failed", "It was cancelled.")
    finally:
        found.close()
        os.close(top)
    batch.send()
    return is_cut


def walk(
    top: int, depth: int, is_wanted: "Callable[[tuple[bytes, ...]], bool]"
) -> "Generator[tuple[int, tuple[bytes, ...], os.stat_result], None, None]":
    """Everything below the folder `top`, parents first: an open folder, the names that lead there, what is there.

    Holds one descriptor however deep the tree is: each folder is reached from the top again, through no link. What
    disappears meanwhile, or may not be read, is passed over.
    """
    pending: list[tuple[bytes, ...]] = [()]
    while pending:
        above = pending.pop()
        folder = _open_to_read(top, above)
        if folder is None:
            continue
        try:
            below = []
            for name in sorted(map(os.fsencode, os.listdir(folder))):  # noqa: PTH208 - by descriptor
                names = (*above, name)
                if not is_wanted(names):
                    continue
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except OSError:
                    continue  # gone meanwhile
                yield folder, names, status
                if paths.is_folder(status.st_mode) and len(names) < depth:
                    below.append(names)
            pending += reversed(below)
        finally:
            os.close(folder)


def _open_to_read(top: int, names: "tuple[bytes, ...]") -> "int | None":
    try:
        step = paths.open_below(top, names)
    except OSError:
        return None
    try:
        return paths.open_folder(step, b".")
    except OSError:
        return None
    finally:
        os.close(step)
