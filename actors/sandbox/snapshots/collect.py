"""Clearing away what no snapshot needs: objects of snapshots that were deleted, and of captures that broke off."""

from collections.abc import Collection
from dataclasses import dataclass

from actors.sandbox.snapshots.keys import Keys, begun_at_s, capture_of, is_digest
from actors.sandbox.snapshots.manifest import load_manifest
from serve_app.core.errors import CorruptedError, NotFoundError
from serve_app.core.stores.objects.base import ObjectStore


@dataclass(frozen=True)
class Collected:
    """How many objects went, and how many are needed or too young to tell."""

    removed: int
    kept: int


async def collect(store: ObjectStore, keys: Keys, live: Collection[str], *, now_s: float, grace_s: float) -> Collected:
    """Remove what none of the manifests `live` needs and no capture begun since `now_s - grace_s` has written or uses.

    `live` is read from the database before this is called: what is committed later is young, and kept for that.

    Raises:
        CorruptedError, NotFoundError: a live manifest cannot be read. Then nothing is removed.
    """
    since_s = now_s - grace_s
    needed = {keys.manifest(digest) for digest in live}
    for digest in live:
        needed |= await _needed_by(store, keys, digest)
    needed |= await _needed_by_captures(store, keys, since_s)
    removed = kept = 0
    async for key in store.keys(keys.root):
        if key in needed or await _is_young(store, keys, key, since_s):
            kept += 1
        else:
            await store.delete(key)
            removed += 1
    return Collected(removed, kept)


async def _needed_by(store: ObjectStore, keys: Keys, digest: str) -> set[str]:
    manifest = await load_manifest(store, keys, digest)
    return {keys.page(page.name) for page in manifest.pages} | {keys.pack(pack.name) for pack in manifest.packs}


async def _needed_by_captures(store: ObjectStore, keys: Keys, since_s: float) -> set[str]:
    """A capture may refer to what its parent has, and the parent may have been deleted under it."""
    needed: set[str] = set()
    async for key in store.keys(f"{keys.root}begun/"):
        if not await _is_young(store, keys, key, since_s):
            continue
        try:
            parent = (await store.get(key)).decode("ascii", "replace")
            needed.add(keys.manifest(parent))
            needed |= await _needed_by(store, keys, parent)
        except (NotFoundError, CorruptedError, ValueError):
            # That capture will find the same out, and read everything anew.
            continue
    return needed


async def _is_young(store: ObjectStore, keys: Keys, key: str, since_s: float) -> bool:
    kind, name = keys.read(key)
    if kind == "manifests":
        if not is_digest(name):
            return False
        try:
            return begun_at_s((await load_manifest(store, keys, name)).capture) >= since_s
        except (NotFoundError, CorruptedError):
            return False
    capture = capture_of(name)
    return capture is not None and begun_at_s(capture) >= since_s
