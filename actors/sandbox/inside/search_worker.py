"""Searches the files below a folder, in a process of its own: a pattern can take for ever, and memory without end."""

import os
import re
import signal
import sys

from . import files, globs, listing, paths
from .frames import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Parts = tuple[bytes, ...]

TOP_FD = 3
_FILE_LIMIT_S = 2.0
_MOST_FILE_BYTES = 16 * 1024 * 1024
_MOST_TEXT = 400
_LEAD = 100
"""Letters shown before a match in a line that is too long to be shown."""
_PEEKED_BYTES = 8192
_LEFT_OUT = frozenset({b".git", b"node_modules", b"__pycache__"})


class _TookTooLong(BaseException):
    """Raised out of the search of one file."""


def main(arguments: "list[str]") -> None:
    """One argument: JSON with `pattern`, `glob`, `limit`, `literal`, `ignore_case` and `only`, a file's name.

    Writes JSON, one object a line.
    """
    request = decode(arguments[0].encode("utf-8", "surrogateescape"))
    literal, ignores_case = bool(request.get("literal")), bool(request.get("ignore_case"))
    glob, limit = request.get("glob"), request.get("limit")
    assert isinstance(limit, int)  # noqa: S101 - the supervisor wrote it
    try:
        pattern = re.escape(str(request["pattern"])) if literal else str(request["pattern"])
        regex = re.compile(pattern, re.MULTILINE | (re.IGNORECASE if ignores_case else 0))
        wanted = globs.to_regex(glob) if isinstance(glob, str) else None
    except (re.error, OverflowError, RecursionError) as exc:
        _say({"refused": f"The pattern is none: {exc}."})
        return
    by_path = isinstance(glob, str) and "/" in glob

    def is_wanted(names: "Parts") -> bool:
        if wanted is None:
            return True
        return wanted.fullmatch(paths.to_text(b"/".join(names) if by_path else names[-1])) is not None

    only = request.get("only")
    _Search(regex, is_wanted, limit, paths.to_bytes(only) if isinstance(only, str) else None).run(TOP_FD)


class _Search:
    """Matches are written as they are found; one below `limit` tells that there are more."""

    def __init__(
        self, regex: "re.Pattern[str]", is_wanted: "Callable[[Parts], bool]", limit: int, only: "bytes | None"
    ) -> None:
        self._regex = regex
        self._is_wanted = is_wanted
        self._left = limit
        self._only = only
        self._skipped = 0

    def run(self, top: int) -> None:
        signal.signal(signal.SIGALRM, _give_up)
        for folder, names in _files_below(top) if self._only is None else [(top, (self._only,))]:
            if not self._is_wanted(names):
                continue
            try:
                # The engine looks for signals while it searches.
                signal.setitimer(signal.ITIMER_REAL, _FILE_LIMIT_S)
                self._search(folder, names)
            except _TookTooLong:
                self._skipped += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if self._left < 0:
                break
        _say({"done": True, "cut": self._left < 0, "skipped": self._skipped})

    def _search(self, folder: int, names: "Parts") -> None:
        content = _read(folder, names)
        if content is None:
            return
        at, number = 0, 1
        counted = 0
        while (match := self._regex.search(content, at)) is not None:
            if match.start() == len(content) and content.endswith("\n"):
                return  # behind the last line there is none
            self._left -= 1
            if self._left < 0:
                return
            start = content.rfind("\n", 0, match.start()) + 1
            end = content.find("\n", match.start())
            end = len(content) if end < 0 else end
            number += content.count("\n", counted, start)
            counted = start
            _say(
                {
                    "path": "." if self._only else paths.to_text(b"/".join(names)),
                    "line": number,
                    "text": _shown(content, start, end, match.start()),
                }
            )
            at = end + 1
            if at > len(content):
                return


def _files_below(top: int) -> "Iterator[tuple[int, Parts]]":
    for folder, names, status in listing.walk(top, listing.MOST_DEPTH, lambda names: names[-1] not in _LEFT_OUT):
        is_small = 0 < status.st_size <= _MOST_FILE_BYTES
        if paths.is_file(status.st_mode) and is_small and not names[-1].endswith(files.PART_SUFFIX):
            yield folder, names


def _read(folder: int, names: "Parts") -> "str | None":
    """None: it is no text, or gone."""
    place = paths.Place(folder, names[-1], "")
    try:
        fd = files.open_file(place, os.O_RDONLY)
    except Exception:  # noqa: BLE001 - whatever it is by now, it is passed over
        return None
    try:
        start = os.read(fd, _PEEKED_BYTES)
        if b"\0" in start:
            return None
        pieces = [start]
        left = _MOST_FILE_BYTES
        while left > 0 and (piece := os.read(fd, 1024 * 1024)):
            pieces.append(piece)
            left -= len(piece)
    except OSError:
        return None
    finally:
        os.close(fd)
    return b"".join(pieces).decode("utf-8", "replace")


def _shown(content: str, start: int, end: int, match_start: int) -> str:
    if end - start > _MOST_TEXT:
        start = max(start, min(match_start - _LEAD, end - _MOST_TEXT))
        end = min(end, start + _MOST_TEXT)
    return content[start:end].rstrip("\r")


def _say(line: "dict[str, object]") -> None:
    sys.stdout.write(encode(line).decode("ascii") + "\n")


def _give_up(*_: object) -> None:
    raise _TookTooLong
