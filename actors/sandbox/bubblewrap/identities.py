"""Whom sandboxes run as on the host: each as a user of its own where we are root, otherwise as ourselves."""

import os
import random
from pathlib import Path

from serve_app.core.errors import AtCapacityError

_FIRST, _LAST = 2_000_000_000, 2_147_352_575
"""Ids that no distribution, systemd or /etc/subuid hands out."""
_BLOCK = 8192
_LEAST_MAPPED = 60_000


class Identities:
    """A block of ids chosen at random, so that two pools of one machine are strangers. Without a block: our own id."""

    def __init__(self, first: int | None) -> None:
        self._first = first
        self._taken: set[int] = set()
        self._next = 0

    @property
    def are_own(self) -> bool:
        return self._first is not None

    def take(self) -> int | None:
        """A host user id nobody else has. None: our own."""
        if self._first is None:
            return None
        if len(self._taken) >= _BLOCK:
            raise AtCapacityError(f"This node has {_BLOCK} sandboxes already. Try again when some have ended.")
        while self._next in self._taken:
            self._next = (self._next + 1) % _BLOCK
        slot = self._next
        self._taken.add(slot)
        # The longest unused comes last, so an id rests before somebody else gets it.
        self._next = (slot + 1) % _BLOCK
        return self._first + slot

    def give_back(self, uid: int | None) -> None:
        if uid is not None and self._first is not None:
            self._taken.discard(uid - self._first)


def find_identities(uid_map: Path = Path("/proc/self/uid_map"), *, euid: int | None = None) -> Identities:
    """What this user may become. Root of a small user namespace is an ordinary user outside of it, and counts as one."""
    if (os.geteuid() if euid is None else euid) != 0:
        return Identities(None)
    ranges = [[int(word) for word in line.split()] for line in uid_map.read_text().splitlines()]
    if any(inside <= _FIRST and inside + count > _LAST for inside, _, count in ranges):
        return Identities(_FIRST + random.SystemRandom().randrange((_LAST - _FIRST) // _BLOCK) * _BLOCK)
    widest = max((inside + count for inside, _, count in ranges if count >= _LEAST_MAPPED), default=None)
    # Below the ids at the end of a container's range, where `nobody` is.
    return Identities(None if widest is None else widest - 2 * _BLOCK)
