"""Content-addressed bytes: stored once an organisation under their SHA-256, verified when they are read whole."""

import hashlib
from collections.abc import AsyncGenerator

from serve_app.core.domain.creations import FileEntry
from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import CorruptedError
from serve_app.core.stores.objects.base import ObjectStore


class BlobService:
    """Blobs of one platform. An organisation never shares a blob with another: existence would tell a secret."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def put(self, org_id: OrgId, path: str, data: bytes, media_type: str) -> FileEntry:
        """Store `data`; when this returns it is durable and a row may point at it."""
        digest = hashlib.sha256(data).hexdigest()
        key = _key(org_id, digest)
        if await self._objects.size(key) != len(data):
            await self._objects.put(key, data)
        return FileEntry(path=path, sha256=digest, size_bytes=len(data), media_type=media_type)

    async def get(self, org_id: OrgId, entry: FileEntry) -> bytes:
        """Raises `CorruptedError` when the bytes are not those that were stored."""
        data = await self._objects.get(_key(org_id, entry.sha256))
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise CorruptedError("The stored bytes do not match their digest.")
        return data

    async def stream(self, org_id: OrgId, entry: FileEntry) -> AsyncGenerator[bytes, None]:
        """The bytes in pieces. Never the last one before all are verified: what is corrupted ends too short.

        Raises:
            NotFoundError, UnavailableError: before the first piece.
            CorruptedError: instead of the last one.
        """
        digest = hashlib.sha256()
        held = b""
        async for piece in self._objects.stream(_key(org_id, entry.sha256)):
            if held:
                yield held
            digest.update(piece)
            held = piece
        if digest.hexdigest() != entry.sha256:
            raise CorruptedError("The stored bytes do not match their digest.")
        yield held


def _key(org_id: OrgId, digest: str) -> str:
    return f"orgs/{org_id}/blobs/{digest[:2]}/{digest}"
