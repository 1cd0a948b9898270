"""Places for captures and restores: few of each, and never all of them in one organisation's hands."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from serve_app.core.domain.ids import OrgId


class Places:
    """A sandbox may make its capture last as long as patience allows; whose it is waits for it, and others do not."""

    def __init__(self, most: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_each = max(1, most - 1)
        self._each: WeakValueDictionary[OrgId, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def take(self, org_id: OrgId) -> AsyncIterator[None]:
        own = self._each.get(org_id)
        if own is None:
            own = self._each[org_id] = asyncio.Semaphore(self._most_each)
        async with own, self._all:
            yield
