"""One organisation's captures never hold up another's."""

import asyncio

from actors.sandbox.snapshots.places import Places
from serve_app.core.domain.ids import OrgId, new_org_id


async def test_a_place_is_left_for_others() -> None:
    places, greedy, other = Places(2), new_org_id(), new_org_id()
    is_over, begun = asyncio.Event(), list[OrgId]()

    async def hold(org_id: OrgId) -> None:
        async with places.take(org_id):
            begun.append(org_id)
            await is_over.wait()

    tasks = [asyncio.create_task(hold(greedy)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(hold(other)))
    await asyncio.sleep(0.01)
    assert begun == [greedy, other]
    is_over.set()
    await asyncio.gather(*tasks)
    assert begun == [greedy, other, greedy, greedy]
