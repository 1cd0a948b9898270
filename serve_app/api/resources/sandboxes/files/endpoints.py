"""`/api/v1/sandboxes/{sandbox_id}`: `files`, `archive`, `watch` and `search`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Header, Query, Request, status
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.entries import Entry, Stream
from serve_app.api.deps import ServicesDep
from serve_app.api.resources.sandboxes.events import Frames, frame, streamed
from serve_app.api.resources.sandboxes.files import service
from serve_app.api.resources.sandboxes.files.schemas import (
    EditedOut,
    EditIn,
    EntriesOut,
    EntryOut,
    FolderIn,
    MatchesOut,
    MatchOut,
    MoveIn,
    SearchIn,
    UnpackedOut,
    WrittenOut,
    shown,
)
from serve_app.api.resources.sandboxes.opened import ClientDep
from serve_app.core.errors import ConflictError, InvalidRequestError, SandboxPathError
from serve_app.core.services.presence import while_present
from serve_app.core.services.requests import ClientGoneError

router = APIRouter()
_BYTES: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}
_TAR: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/x-tar": {}}}}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}, "text/plain": {}}, "description": "the content"},
    206: {"content": {"application/octet-stream": {}}, "description": "the range"},
}
_ARCHIVE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-tar": {}}, "description": "the archive"}}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "server-sent events"}
}
_PATH = Query(min_length=1, max_length=4096, description="relative paths start at the workspace")


def exact_path(request: Request, path: str) -> str:
    """The path as it was sent: names need not be UTF-8."""
    if "�" in path:
        query = request.scope["query_string"].decode("latin-1")
        path = dict(parse_qsl(query, errors="surrogateescape")).get("path", path)
    if "\0" in path:
        raise SandboxPathError("A path has no NUL in it.")
    return path


def file_path(request: Request, path: Annotated[str, _PATH]) -> str:
    return exact_path(request, path)


def folder_path(request: Request, path: Annotated[str, _PATH] = ".") -> str:
    return exact_path(request, path)


FilePath = Annotated[str, Depends(file_path)]
FolderPath = Annotated[str, Depends(folder_path)]


# --- contents ---


@router.get("/files", response_class=Response, responses=_CONTENT)
async def read_file(
    path: FilePath, client: ClientDep, wanted: Annotated[str | None, Header(alias="range")] = None
) -> Response:
    """A file's bytes. `Range` takes one range of bytes."""
    return await service.download(client, path, wanted)


@router.put("/files", openapi_extra=_BYTES)
async def write_file(
    request: Request,
    path: FilePath,
    client: ClientDep,
    mode: Annotated[str | None, Query(pattern=r"^0?[0-7]{3}$", description="octal, such as 755")] = None,
    exclusive: Annotated[bool, Query(description="refuse if it is there")] = False,
    append: Annotated[bool, Query(description="after what is there")] = False,
) -> WrittenOut:
    """The body becomes the file's whole content, with the folders it needs. All or nothing, unless it appends."""
    if exclusive and append:
        raise InvalidRequestError("Choose exclusive or append, and not both.")
    async with aclosing(_body(request)) as body:
        size = await client.write(path, body, mode=int(mode, 8) if mode else None, exclusive=exclusive, append=append)
    return WrittenOut(size=size)


async def _body(request: Request) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in request.stream():
            if piece:
                yield piece
    except ClientDisconnect:
        raise ClientGoneError from None


@router.post("/files/edit")
async def edit_file(body: EditIn, client: ClientDep) -> EditedOut:
    """Replace exact text."""
    return EditedOut(replaced=await client.edit(body.path, body.old, body.new, replace_all=body.all))


# --- names ---


@router.get("/files/list")
async def list_files(
    request: Request,
    path: FolderPath,
    client: ClientDep,
    depth: Annotated[int, Query(ge=1, le=100)] = 1,
    hidden: Annotated[bool, Query(description="also names that begin with a dot")] = True,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> EntriesOut:
    return await while_present(_listed(client.list(path, depth=depth, hidden=hidden, limit=limit)), request.receive)


async def _listed(stream: Stream[Entry]) -> EntriesOut:
    async with stream as entries:
        items = [EntryOut.of(entry) async for entry in entries]
        return EntriesOut(items=items, cut=entries.cut)


@router.get("/files/stat")
async def stat_file(path: FilePath, client: ClientDep) -> EntryOut:
    return EntryOut.of(await client.stat(path))


@router.post("/files/move", status_code=status.HTTP_204_NO_CONTENT)
async def move_file(body: MoveIn, client: ClientDep) -> None:
    await client.move(body.source, body.target, replace=body.replace)


@router.post("/files/mkdir", status_code=status.HTTP_204_NO_CONTENT)
async def make_folder(body: FolderIn, client: ClientDep) -> None:
    """With the folders above it."""
    await client.mkdir(body.path)


@router.delete("/files", status_code=status.HTTP_204_NO_CONTENT)
async def delete_file(
    path: FilePath, client: ClientDep, recursive: Annotated[bool, Query(description="folders with all in them")] = False
) -> None:
    await client.delete(path, recursive=recursive)


# --- many at once ---


@router.get("/archive", response_class=Response, responses=_ARCHIVE)
async def read_archive(path: FolderPath, client: ClientDep) -> Response:
    """A folder as an uncompressed tar archive."""
    return await service.download_archive(client, path)


@router.put("/archive", openapi_extra=_TAR)
async def write_archive(request: Request, path: FolderPath, client: ClientDep) -> UnpackedOut:
    """Unpack an uncompressed tar archive into a folder, which is made if need be. One that would leave it is refused."""
    with suppress(ConflictError):
        await client.mkdir(path)
    async with aclosing(_body(request)) as body:
        return UnpackedOut(files=await client.untar(body, path))


@router.get("/watch", response_class=Response, responses=_EVENTS)
async def watch_files(request: Request, path: FolderPath, client: ClientDep, services: ServicesDep) -> Response:
    """`changed` with the `paths` that changed, at most ten times a second; `cut`: there were more. For as long as you
    listen, the sandbox counts as used."""
    return streamed(request, services, _changes(client, path))


async def _changes(client: SandboxClient, path: str) -> Frames:
    async with client.watch(path) as stream:
        async for changes in stream:
            yield frame("changed", {"paths": [shown(one) for one in changes.paths], "cut": changes.cut})


@router.post("/search")
async def search_files(request: Request, body: SearchIn, client: ClientDep) -> MatchesOut:
    """Lines that match a regular expression."""
    return await while_present(_found(client, body), request.receive)


async def _found(client: SandboxClient, wanted: SearchIn) -> MatchesOut:
    async with client.search(wanted.pattern, wanted.path, glob=wanted.glob, limit=wanted.limit) as matches:
        items = [MatchOut.of(match) async for match in matches]
        return MatchesOut(items=items, cut=matches.cut)
