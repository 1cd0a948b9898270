"""`/api/v1/creations`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, status
from fastapi.responses import Response, StreamingResponse

from serve_app.api.deps import CallerDep, Limit, ServicesDep
from serve_app.api.resources.creations import service
from serve_app.api.resources.creations.schemas import (
    CreationOut,
    CreationsOut,
    PreviewLinkOut,
    VersionOut,
    VersionsOut,
)
from serve_app.core.domain.ids import SessionId

router = APIRouter(prefix="/creations", tags=["creations"])
MAX_NUMBER = 2**31 - 1
Number = Annotated[int, Path(ge=1, le=MAX_NUMBER)]
SessionFilter = Annotated[str | None, Query(pattern=r"^ses_[0-9a-z]{26}$", description="only this session's")]


@router.get("")
async def list_creations(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 50,
    cursor: str | None = None,
    session_id: SessionFilter = None,
) -> CreationsOut:
    """The organisation's creations, newest first."""
    before = service.creation_id_of(cursor) if cursor else None
    found = await services.creations.page(caller.org_id, limit, before, SessionId(session_id) if session_id else None)
    return CreationsOut(
        items=[CreationOut.model_validate(creation) for creation in found],
        next_cursor=found[-1].id if len(found) == limit else None,
    )


@router.get("/{creation_id}")
async def read_creation(creation_id: str, caller: CallerDep, services: ServicesDep) -> CreationOut:
    creation = await services.creations.get(caller.org_id, service.creation_id_of(creation_id))
    return CreationOut.model_validate(creation)


@router.get("/{creation_id}/versions")
async def list_versions(
    creation_id: str,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, le=MAX_NUMBER)] = None,
) -> VersionsOut:
    """Newest first."""
    creation = await services.creations.get(caller.org_id, service.creation_id_of(creation_id))
    found = await services.creations.versions(caller.org_id, creation.id, limit, cursor)
    return VersionsOut(
        items=[VersionOut.model_validate(version) for version in found],
        next_cursor=found[-1].number if len(found) == limit else None,
    )


@router.get("/{creation_id}/versions/{number}")
async def read_version(creation_id: str, number: Number, caller: CallerDep, services: ServicesDep) -> VersionOut:
    version = await services.creations.version(caller.org_id, service.creation_id_of(creation_id), number)
    return VersionOut.model_validate(version)


@router.get("/{creation_id}/versions/{number}/files/{path:path}", response_class=Response)
async def download_file(
    creation_id: str,
    number: Number,
    path: str,
    caller: CallerDep,
    services: ServicesDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The file's bytes, as a download: what an agent made is never rendered on the application's own origin."""
    entry = await service.file_of(services, caller, creation_id, number, path)
    etag = f'"{entry.sha256}"'
    headers = {
        "etag": etag,
        "cache-control": "private, max-age=31536000, immutable",
        "content-disposition": "attachment",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
    }
    if if_none_match and etag in if_none_match:
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    pieces = services.blobs.stream(caller.org_id, entry)
    # The first piece before the status: a store that fails is not a 200.
    first = await anext(pieces)
    headers["content-length"] = str(entry.size_bytes)
    return StreamingResponse(_with_first(first, pieces), 200, headers, media_type=entry.media_type)


async def _with_first(first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece


@router.post("/{creation_id}/preview-links", status_code=status.HTTP_201_CREATED)
async def make_preview_link(creation_id: str, caller: CallerDep, services: ServicesDep) -> PreviewLinkOut:
    """A link that opens the creation in a browser, on a host name of its own."""
    url, expires_at = await service.preview_link(services, caller, creation_id)
    return PreviewLinkOut(url=url, expires_at=expires_at)
