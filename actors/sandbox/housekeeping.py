"""Old snapshots are forgotten, and what only they needed leaves the object store."""

import asyncio
from collections.abc import Collection
from typing import Protocol

from serve_app.core.domain.ids import OrgId
from serve_app.core.telemetry import get_logger

_EVERY_S = 3600.0
_KEPT, _AGE_S = 10, 7 * 86_400.0
"""Of each sandbox the ten newest stay, and none goes within a week."""


class Snapshots(Protocol):
    """Which there are."""

    async def forget_old_snapshots(self, *, keep: int, age_s: float) -> list[OrgId]: ...

    async def live_manifests(self, org_id: OrgId) -> list[str]: ...


class Store(Protocol):
    """Where their files are."""

    async def collect(self, org_id: OrgId, live: Collection[str]) -> object: ...


async def forget_old_snapshots(snapshots: Snapshots, store: Store, *, every_s: float = _EVERY_S) -> None:
    """Until cancelled. Every pool does it: what one has forgotten another does not find any more."""
    while True:
        try:
            forgotten = await snapshots.forget_old_snapshots(keep=_KEPT, age_s=_AGE_S)
        except Exception as exc:  # noqa: BLE001 - the pool that does this must not end with it
            get_logger().warning("old snapshots not forgotten", reason=f"{type(exc).__name__}: {exc}")
            forgotten = []
        for org_id in forgotten:
            await _collect(snapshots, store, org_id)
        await asyncio.sleep(every_s)


async def _collect(snapshots: Snapshots, store: Store, org_id: OrgId) -> None:
    """What cannot be collected now is collected with what is forgotten next, and holds no other organisation up."""
    try:
        collected = await store.collect(org_id, await snapshots.live_manifests(org_id))
    except Exception as exc:  # noqa: BLE001 - the same
        get_logger().warning("forgotten snapshots not collected", org_id=org_id, reason=f"{type(exc).__name__}: {exc}")
    else:
        get_logger().info("old snapshots forgotten", org_id=org_id, collected=str(collected))
