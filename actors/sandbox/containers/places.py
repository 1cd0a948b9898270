"""Where things are inside a sandbox that runs from an image, and how its writable places share the disk limit."""

from collections.abc import Iterator
from dataclasses import dataclass

from actors.sandbox.base import HOME, WORKSPACE
from configs.sandboxes import Limits

SUPERVISOR = "/opt/aether/supervisor"
DOOR = "/run/aether/door"
DIAL_NAME, TOKEN_NAME = "dial", "token"
USER_ID = 1000

_PLACES = ((WORKSPACE, 2, "0755"), ("/tmp", 4, "1777"), (HOME, 8, "0755"), ("/dev/shm", 8, "1777"))  # noqa: S108 - the sandbox's own
_FEWEST_INODES = 16


@dataclass(frozen=True)
class Place:
    """A file system in memory of its own. `options` are those of mount(8)."""

    path: str
    options: tuple[str, ...]


def writable_places(limits: Limits) -> Iterator[Place]:
    """Each gets a part of the disk limit; together they have all of it."""
    for path, part, mode in _PLACES:
        owner = (f"uid={USER_ID}", f"gid={USER_ID}") if mode == "0755" else ()
        inodes = max(_FEWEST_INODES, limits.inodes // part)
        size = (f"mode={mode}", f"size={limits.disk // part}", f"nr_inodes={inodes}")
        yield Place(path, ("rw", "nosuid", "nodev", "exec", *owner, *size))


def launch(door: str) -> list[str]:
    """The command of a sandbox. The token comes from a file that is gone before anything else runs inside."""
    return ["/bin/sh", "-c", f"exec python3 -I -S -B {SUPERVISOR} {door} --token-fd 9 9<{DOOR}/{TOKEN_NAME}"]
