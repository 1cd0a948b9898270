"""Where the objects of snapshots lie in the store, and how old they are.

Chunks of files are addressed by their digests, and the manifest of a snapshot by its own; packs and pages, which hold
them, are named after the capture that wrote them. So no object is ever written twice or by two captures, and its name
tells its age: the collector needs no clock of the store's.
"""

from serve_app.core.domain.ids import OrgId, SnapshotId, is_id
from serve_app.core.stores.objects.base import checked_key

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_BITS = 80
_SHA256_CHARS = 64


class Keys:
    """Of one organisation. A name is `snp_…/n`."""

    def __init__(self, org_id: OrgId) -> None:
        self._root = f"orgs/{org_id}/workspaces"

    @property
    def root(self) -> str:
        return f"{self._root}/"

    def manifest(self, digest: str) -> str:
        return checked_key(f"{self._root}/manifests/{digest}")

    def pack(self, name: str) -> str:
        return checked_key(f"{self._root}/packs/{name}")

    def page(self, name: str) -> str:
        return checked_key(f"{self._root}/pages/{name}")

    def begun(self, capture: SnapshotId) -> str:
        """What a capture needs while it is under way, and for a while after: its parent's manifest."""
        return checked_key(f"{self._root}/begun/{capture}")

    def read(self, key: str) -> tuple[str, str]:
        """Kind and name of a key below `root`."""
        kind, _, name = key.removeprefix(self.root).partition("/")
        return kind, name


def capture_of(name: str) -> SnapshotId | None:
    """Which capture wrote an object of this name; None when it is no such name."""
    capture, slash, number = name.partition("/")
    if not is_id(capture, "snp") or (slash and not (number.isascii() and number.isdigit() and len(number) <= 9)):
        return None
    return SnapshotId(capture)


def begun_at_s(capture: SnapshotId) -> float:
    """When the id was made, in seconds since 1970: it begins with milliseconds (RFC 9562)."""
    value = 0
    for char in capture.partition("_")[2]:
        value = value << 5 | _ALPHABET.index(char)
    return (value >> _TIME_BITS) / 1000


def is_digest(text: object) -> bool:
    return isinstance(text, str) and len(text) == _SHA256_CHARS and not text.strip("0123456789abcdef")
