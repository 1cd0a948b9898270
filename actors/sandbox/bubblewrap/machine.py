"""What this node gives to sandboxes, found out once in a pool's life: its folder, its limits, its users, its images."""

import fcntl
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from actors.sandbox.bubblewrap.arguments import hidden_entries
from actors.sandbox.bubblewrap.identities import Identities, find_identities
from actors.sandbox.bubblewrap.image import Images
from actors.sandbox.bubblewrap.limits import Holds, find_holds
from actors.sandbox.bubblewrap.seccomp import compile_filter, is_known
from serve_app.core.errors import MisconfiguredError, UnavailableError


class RunFolder:
    """A pool's folder on its node, for one pool at a time. `take` raises `UnavailableError` while another has it."""

    def __init__(self, path: Path) -> None:
        self.boxes = path / "boxes"
        self.images = path / "images"
        self.group_name = f"aether-{sha256(str(path).encode()).hexdigest()[:12]}"
        self._path = path
        self._lock = -1

    def take(self) -> None:
        if self._lock >= 0:
            return
        try:
            for folder in (self._path, self.boxes, self.images):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise MisconfiguredError(f"The folder {self._path} cannot be used for sandboxes: {exc.strerror}.") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(lock)
            raise UnavailableError(f"Another sandbox pool of this node still uses {self._path}. Try again.") from exc
        self._lock = lock

    def leave(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Machine:
    """What this machine gives, found out once."""

    def __init__(self, holds: Holds, identities: Identities, images: Images) -> None:
        self.holds = holds
        self.identities = identities
        self.images = images
        self.hidden = hidden_entries()
        self.filter = compile_filter(os.uname().machine, without=holds.forbidden_calls)


def find_machine(
    folder: RunFolder, program: Path, find_holds: Callable[[str], Holds] = find_holds,
    find_identities: Callable[[], Identities] = find_identities,
) -> Machine:  # fmt: skip
    """Raises `MisconfiguredError` on a machine whose system calls we do not know."""
    machine = os.uname().machine
    if sys.platform != "linux" or not is_known(machine):
        raise MisconfiguredError(f"bubblewrap sandboxes need Linux on x86_64 or aarch64, and this is {machine}.")
    folder.take()
    identities = find_identities()
    images = Images(folder.images, program, has_own_users=identities.are_own)
    images.forget()
    return Machine(find_holds(folder.group_name), identities, images)
