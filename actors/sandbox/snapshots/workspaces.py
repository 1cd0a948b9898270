"""Workspaces as a pool keeps them: captured into the object store, brought back, and cleared away when not needed."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol
from weakref import WeakKeyDictionary

from actors.sandbox.snapshots.capture import Capture, Captured, Parent, Source
from actors.sandbox.snapshots.collect import Collected, collect
from actors.sandbox.snapshots.keys import Keys
from actors.sandbox.snapshots.manifest import load_manifest
from actors.sandbox.snapshots.places import Places
from actors.sandbox.snapshots.restore import Restore, Target
from serve_app.core.clock import Clock
from serve_app.core.domain.ids import OrgId, SandboxId, new_snapshot_id
from serve_app.core.domain.sandboxes import Snapshot
from serve_app.core.errors import CorruptedError, NotFoundError
from serve_app.core.stores.objects.base import ObjectStore

CACHES = (".cache", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "_cacache", "lost+found")
"""Names of folders that programs fill again by themselves."""
_GRACE_S = 86_400.0
_TICK_S = 0.02
"""Twice the longest step of the clock that file systems take times of change from."""


class Inside(Source, Target, Protocol):
    """What of a sandbox's client is needed here."""


class StoredWorkspaces:
    """`most_bytes` bounds one snapshot, whatever a sandbox claims to have. The store is not closed here.

    Each capture or restore under way holds some 50 MiB, so there are `most_at_once` of either, and others wait.
    One place of them is always free of the organisation that has all others.
    """

    def __init__(
        self,
        store: ObjectStore,
        clock: Clock,
        *,
        most_bytes: int,
        exclude: Sequence[str] = CACHES,
        grace_s: float = _GRACE_S,
        most_at_once: int = 3,
    ) -> None:
        self._store = store
        self._clock = clock
        self._most_bytes = most_bytes
        self._exclude = exclude
        self._grace_s = grace_s
        self._captures = Places(most_at_once)
        self._restores = Places(most_at_once)
        self._restored: WeakKeyDictionary[Inside, tuple[str, int]] = WeakKeyDictionary()
        """What was restored through which client, and when that had ended, by this node's clock."""

    async def capture(self, client: Inside, org_id: OrgId, sandbox_id: SandboxId, parent: Snapshot | None) -> Snapshot:
        """Everything in the workspace now; only what changed since `parent` is read and stored.

        `parent` has to be a snapshot that is not deleted when this begins. Files should not change meanwhile: of one
        that does, what was read is kept.

        Raises:
            SandboxFullError: there is more than a snapshot may have.
            SandboxLostError, SandboxProtocolError, UnavailableError: nothing was kept.
        """
        async with self._captures.take(org_id):
            try:
                return await self._capture(client, org_id, sandbox_id, parent)
            except (CorruptedError, NotFoundError):
                if parent is None:
                    raise
                # What is damaged is the parent's: everything is still here to be read anew.
                return await self._capture(client, org_id, sandbox_id, None)

    async def restore(self, client: Inside, snapshot: Snapshot) -> None:
        """Into an empty workspace in which nothing else runs.

        When it fails the sandbox holds some part of the files, and should be destroyed.

        Raises:
            CorruptedError: stored bytes do not match their digests, or are not there.
            SandboxFullError: it does not fit.
        """
        keys = Keys(snapshot.org_id)
        try:
            async with self._restores.take(snapshot.org_id):
                restore = Restore(self._store, keys, await load_manifest(self._store, keys, snapshot.manifest))
                try:
                    await restore.give(client)
                finally:
                    await restore.close()
        except NotFoundError as exc:
            raise CorruptedError("Something of the snapshot is missing in the store.") from exc
        self._restored[client] = snapshot.manifest, _nanos(self._clock.now())
        # Whatever changes from now on gets a later time of change than all that was restored.
        await asyncio.sleep(_TICK_S)

    async def collect(self, org_id: OrgId, live: Collection[str]) -> Collected:
        """Remove what no snapshot needs. `live` are the manifests of all snapshots of the organisation."""
        now_s = self._clock.now().timestamp()
        return await collect(self._store, Keys(org_id), live, now_s=now_s, grace_s=self._grace_s)

    async def _capture(self, client: Inside, org_id: OrgId, sandbox_id: SandboxId, parent: Snapshot | None) -> Snapshot:
        keys = Keys(org_id)
        snapshot_id = new_snapshot_id()
        base = None
        if parent is not None:
            await self._store.put(keys.begun(snapshot_id), parent.manifest.encode("ascii"))
            base = Parent(parent.manifest, await load_manifest(self._store, keys, parent.manifest))
        now = self._clock.now()
        restored, restored_ns = self._restored.get(client, ("", 0))
        capture = Capture(
            self._store,
            keys,
            snapshot_id,
            base,
            now_ns=_nanos(now),
            most_bytes=self._most_bytes,
            exclude=self._exclude,
            restored_ns=restored_ns if base and base.digest == restored else None,
        )
        try:
            captured: Captured = await capture.take(client)
        except BaseException:
            await capture.close()
            # A sandbox that breaks off again and again must not fill the store.
            await asyncio.shield(capture.discard())
            raise
        await capture.close()
        return Snapshot(
            id=snapshot_id,
            org_id=org_id,
            sandbox_id=sandbox_id,
            parent_id=parent.id if parent else None,
            manifest=captured.manifest,
            files=captured.files,
            size_bytes=captured.size_bytes,
            stored_bytes=captured.stored_bytes,
            created_at=now,
        )


def _nanos(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
