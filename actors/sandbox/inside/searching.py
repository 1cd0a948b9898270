"""The operation search: lines of files that a pattern matches, found by a process of its own and checked here."""

import os
import select
from time import monotonic

from . import listing, own_python, paths, search_worker
from .asked import flag, text, whole
from .channel import Channel
from .frames import decode, encode
from .refusals import BadFrame, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .trees import Tree

_LIMIT_S = 30.0
_MOST_PATTERN = 10_000
_MOST_MATCHES = 10_000
_MOST_LINE_BYTES = 256 * 1024
_MOST_TEXT = 1000
_SEND_S = 0.1
"""Matches found so far are sent so often."""


def search(channel: Channel, request: "dict[str, object]") -> "dict[str, object]":
    """`literal`: the pattern is text, no regular expression. `ignore_case`. `.git` and the like are left out."""
    pattern = text(request, "pattern")
    if not 0 < len(pattern) <= _MOST_PATTERN:
        raise Refused("bad_request", f"pattern has 1 to {_MOST_PATTERN} letters.")
    wanted: dict[str, object] = {
        "pattern": pattern,
        "glob": text(request, "glob")[:_MOST_PATTERN] if request.get("glob") is not None else None,
        "limit": whole(request, "limit", 1000, least=1, most=_MOST_MATCHES),
        "literal": flag(request, "literal"),
        "ignore_case": flag(request, "ignore_case"),
    }
    inside = channel.inside
    top, only = _top_of(channel, text(request, "path"))
    wanted["only"] = only
    program = own_python.isolated(inside, "search_worker", [encode(wanted).decode("ascii")])
    out, out_end = os.pipe()
    os.set_blocking(out, False)
    try:
        fds = {0: inside.null_fd, 1: out_end, 2: inside.null_fd, search_worker.TOP_FD: top}
        tree = inside.trees.start(program, fds)
    except BaseException:
        os.close(out)
        raise
    finally:
        os.close(out_end)
        os.close(top)
    try:
        return _Reading(channel, tree, out, _MOST_MATCHES).run()
    finally:
        tree.kill()
        tree.close()
        os.close(out)


def _top_of(channel: Channel, path: str) -> "tuple[int, str | None]":
    """The folder to search, open, and the one file in it that is wanted, if it is one."""
    with paths.roots_of(channel).resolve(path) as place:
        if paths.is_file(place.look().st_mode):
            return paths.open_folder(place.folder, b"."), paths.to_text(place.name)
        return place.open_folder(), None


class _Reading:
    """What the worker writes. It works on hostile files, so what it says is checked like theirs."""

    def __init__(self, channel: Channel, tree: "Tree", out: int, most: int) -> None:
        self._channel = channel
        self._tree = tree
        self._out = out
        self._left = most
        self._batch = listing.Batch(channel, "matches", "matches")
        self._result: dict[str, object] | None = None

    def run(self) -> "dict[str, object]":
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        poll.register(self._channel.fileno(), select.POLLIN)
        ends_at = monotonic() + _LIMIT_S
        sends_at = monotonic() + _SEND_S
        rest = b""
        while self._result is None:
            poll.poll(_SEND_S * 1000)
            if self._channel.is_cancelled():
                raise Refused("failed", "The search was cancelled.")
            if monotonic() >= ends_at:
                self._result = {"cut": True, "timed_out": True}
                break
            piece = self._read()
            if piece is not None:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._take(line)
                if not piece or len(rest) > _MOST_LINE_BYTES:
                    break
            if monotonic() >= sends_at:
                self._batch.send()
                sends_at = monotonic() + _SEND_S
        self._batch.send()
        if self._result is None:
            raise Refused("failed", "The search ended by itself, perhaps for want of memory.")
        return self._result

    def _read(self) -> "bytes | None":
        try:
            return os.read(self._out, 64 * 1024)
        except BlockingIOError:
            return None

    def _take(self, line: bytes) -> None:
        try:
            said = decode(line)
        except BadFrame as exc:
            raise Refused("failed", "The search said something that is no answer.") from exc
        refused = said.get("refused")
        if isinstance(refused, str):
            raise Refused("bad_request", refused)
        if said.get("done") is True:
            skipped = said.get("skipped")
            self._result = {"cut": said.get("cut") is True, "skipped": skipped if isinstance(skipped, int) else 0}
            return
        path, number, found = said.get("path"), said.get("line"), said.get("text")
        if not isinstance(path, str) or len(path) > listing.MOST_PATH_LETTERS:
            return
        if isinstance(number, int) and isinstance(found, str) and self._left > 0:
            self._left -= 1
            found = found[:_MOST_TEXT]
            size = 100 + listing.json_bytes(path) + listing.json_bytes(found)
            self._batch.add({"path": path, "line": number, "text": found}, size)
