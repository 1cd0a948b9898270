"""Old snapshots are forgotten whatever goes wrong with one organisation's."""

import asyncio
from collections.abc import Collection
from contextlib import suppress

from actors.sandbox.housekeeping import forget_old_snapshots
from serve_app.core.domain.ids import OrgId, new_org_id

BROKEN, SOUND = new_org_id(), new_org_id()


class _Rows:
    def __init__(self) -> None:
        self.asked = 0

    async def forget_old_snapshots(self, *, keep: int, age_s: float) -> list[OrgId]:
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError("a deadlock was detected")
        return [BROKEN, SOUND]

    async def live_manifests(self, org_id: OrgId) -> list[str]:
        return []


class _Files:
    def __init__(self) -> None:
        self.collected: list[OrgId] = []

    async def collect(self, org_id: OrgId, live: Collection[str]) -> object:
        if org_id == BROKEN:
            raise OSError("the disk is gone")
        self.collected.append(org_id)
        return "all"


async def test_what_cannot_be_collected_holds_nobody_up() -> None:
    rows, files = _Rows(), _Files()
    keeping = asyncio.create_task(forget_old_snapshots(rows, files, every_s=0.001))
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if files.collected:
            break
    assert not keeping.done()
    assert files.collected[0] == SOUND
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
