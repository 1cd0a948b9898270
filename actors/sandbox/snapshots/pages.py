"""The pages of a snapshot as they are written: one after the other, those the parent has already left as they are."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable

from actors.sandbox.snapshots.keys import Keys
from actors.sandbox.snapshots.manifest import MOST_FILES, PageRef
from actors.sandbox.snapshots.records import Record, encode_page, ends_page
from serve_app.core.domain.ids import SnapshotId
from serve_app.core.errors import SandboxFullError
from serve_app.core.stores.objects.base import ObjectStore


class PageWriter:
    """The pages of one capture."""

    def __init__(self, store: ObjectStore, keys: Keys, capture: SnapshotId, parents: Iterable[PageRef]) -> None:
        self.pages: list[PageRef] = []
        self.live_bytes: Counter[str] = Counter()
        """By pack."""
        self.files = 0
        self.size_bytes = 0
        self.stored_bytes = 0
        self._store = store
        self._keys = keys
        self._capture = capture
        self._parents = {page.digest: page for page in parents}
        self._records: list[Record] = []
        self._count = 0

    async def add(self, record: Record) -> None:
        """Raises `SandboxFullError` when there are more than a snapshot may have."""
        if self.files >= MOST_FILES:
            raise SandboxFullError(f"The workspace has more than {MOST_FILES} files. Delete some.", limit="inodes")
        self.files += 1
        for chunk in record.chunks:
            self.live_bytes[chunk.pack] += chunk.size
            self.size_bytes += chunk.size
        self._records.append(record)
        if ends_page(self._records):
            await self._flush()

    @property
    def begun(self) -> list[str]:
        """The names of all that are stored, or may be."""
        return [f"{self._capture}/{number}" for number in range(self._count)]

    async def finish(self) -> None:
        if self._records:
            await self._flush()

    async def _flush(self) -> None:
        records, self._records = self._records, []
        stored = await asyncio.to_thread(encode_page, records)
        digest = hashlib.sha256(stored).hexdigest()
        page = self._parents.get(digest)
        if page is None:
            page = PageRef(f"{self._capture}/{self._count}", digest)
            self._count += 1
            self.stored_bytes += len(stored)
            await self._store.put(self._keys.page(page.name), stored)
        self.pages.append(page)
