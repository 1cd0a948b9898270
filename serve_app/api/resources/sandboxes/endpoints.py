"""`/api/v1/sandboxes` and `/api/v1/sandbox-profiles`."""

from typing import Annotated

from fastapi import APIRouter, Query, status

from serve_app.api.deps import CallerDep, Cursor, IdempotencyKey, Limit, ServicesDep, checked_id
from serve_app.api.resources.sandboxes import service
from serve_app.api.resources.sandboxes.files.endpoints import router as files
from serve_app.api.resources.sandboxes.links.endpoints import router as links
from serve_app.api.resources.sandboxes.opened import SandboxIdDep, sandbox_id_of
from serve_app.api.resources.sandboxes.programs.endpoints import router as programs
from serve_app.api.resources.sandboxes.schemas import (
    ForkIn,
    ProfileOut,
    ProfilesOut,
    SandboxesOut,
    SandboxIn,
    SandboxOut,
    SnapshotOut,
    SnapshotsOut,
)
from serve_app.core.domain.ids import SnapshotId

router = APIRouter(prefix="/sandboxes", tags=["sandboxes"])
profiles = APIRouter(prefix="/sandbox-profiles", tags=["sandboxes"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_sandbox(
    body: SandboxIn, caller: CallerDep, services: ServicesDep, idempotency_key: IdempotencyKey = None
) -> SandboxOut:
    """Start a sandbox. The answer means: it runs."""
    return SandboxOut.model_validate(await service.create(services, caller, body, idempotency_key))


@router.get("")
async def list_sandboxes(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 50,
    cursor: Cursor = None,
    ended: Annotated[bool, Query(description="also those that are no more")] = False,
) -> SandboxesOut:
    """The organisation's, newest first."""
    before = sandbox_id_of(cursor) if cursor else None
    found = await services.sandbox_rows.page(caller.org_id, limit, before, with_ended=ended)
    return SandboxesOut(
        items=[SandboxOut.model_validate(one) for one in found],
        next_cursor=found[-1].id if len(found) == limit else None,
    )


@router.get("/{sandbox_id}")
async def read_sandbox(sandbox_id: SandboxIdDep, caller: CallerDep, services: ServicesDep) -> SandboxOut:
    return SandboxOut.model_validate(await services.sandbox_rows.get(caller.org_id, sandbox_id))


@router.delete("/{sandbox_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_sandbox(sandbox_id: SandboxIdDep, caller: CallerDep, services: ServicesDep) -> None:
    """End it for good."""
    await services.sandboxes.delete(caller, sandbox_id)


@router.post("/{sandbox_id}/pause")
async def pause_sandbox(sandbox_id: SandboxIdDep, caller: CallerDep, services: ServicesDep) -> SandboxOut:
    """Store the workspace and give the processes up. The next use brings it back, with its services."""
    return SandboxOut.model_validate(await services.sandboxes.pause(caller, sandbox_id))


@router.post("/{sandbox_id}/fork", status_code=status.HTTP_201_CREATED)
async def fork_sandbox(
    sandbox_id: SandboxIdDep, caller: CallerDep, services: ServicesDep, body: ForkIn | None = None
) -> SandboxOut:
    """Another sandbox with the same workspace. It starts when it is first used."""
    wanted = body.snapshot_id if body else None
    snapshot_id = SnapshotId(checked_id(wanted, "snp")) if wanted else None
    return SandboxOut.model_validate(await services.sandboxes.fork(caller, sandbox_id, snapshot_id))


@router.post("/{sandbox_id}/snapshots", status_code=status.HTTP_201_CREATED)
async def take_snapshot(sandbox_id: SandboxIdDep, caller: CallerDep, services: ServicesDep) -> SnapshotOut:
    """Keep the workspace as it is now; the sandbox goes on. Should it be lost, it comes back from here."""
    return SnapshotOut.model_validate(await services.sandboxes.snapshot(caller, sandbox_id))


@router.get("/{sandbox_id}/snapshots")
async def list_snapshots(
    sandbox_id: SandboxIdDep, caller: CallerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None
) -> SnapshotsOut:
    """Newest first."""
    before = SnapshotId(checked_id(cursor, "snp")) if cursor else None
    row = await services.sandbox_rows.get(caller.org_id, sandbox_id)
    found = await services.sandbox_rows.snapshots(caller.org_id, row.id, limit, before)
    return SnapshotsOut(
        items=[SnapshotOut.model_validate(one) for one in found],
        next_cursor=found[-1].id if len(found) == limit else None,
    )


@router.delete("/{sandbox_id}/snapshots/{snapshot_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_snapshot(sandbox_id: SandboxIdDep, snapshot_id: str, caller: CallerDep, services: ServicesDep) -> None:
    """409 where a sandbox would come back from it."""
    found = SnapshotId(checked_id(snapshot_id, "snp"))
    await services.sandbox_rows.forget_snapshot(caller.org_id, sandbox_id, found)


@profiles.get("")
async def list_profiles(_caller: CallerDep, services: ServicesDep) -> ProfilesOut:
    """The kinds of sandboxes there are, and what each may use, reach and cost."""
    known = services.sandboxes.profiles
    return ProfilesOut(items=[ProfileOut.of(profile, known.default) for profile in known.profiles])


for inner in (programs, files, links):
    router.include_router(inner, prefix="/{sandbox_id}")
