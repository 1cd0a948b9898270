"""Sandboxes, their snapshots and their pools. Each change of state is one function call, made under a fence."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import select

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.sandboxes import sandbox_snapshots, sandboxes
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import OrgId, SandboxId, SessionId, SnapshotId, new_sandbox_id
from serve_app.core.domain.sandboxes import (
    Door,
    EndReason,
    Lease,
    Sandbox,
    SandboxState,
    Service,
    Snapshot,
)
from serve_app.core.errors import ConflictError, NotFoundError

_LIVE = [SandboxState.STARTING, SandboxState.RUNNING, SandboxState.FROZEN]
_HELD = [SandboxState.RUNNING, SandboxState.FROZEN]
_NOT_ENDED = [*_LIVE, SandboxState.STORED]
_MOST_SNAPSHOTS = 100
"""Of one sandbox."""
_DAY_S = 86_400.0
_ENDED_S = 90 * _DAY_S
"""How long one that has ended can still be looked up."""


class SqlSandboxRepository:
    """Sandboxes in PostgreSQL. `quota`: how many an organisation may have running, frozen or starting.

    `most_bytes`: how much of its snapshots may be stored. Beyond, it makes neither sandboxes nor snapshots, and beyond
    twice as much it brings none back; what runs is stored all the same.
    """

    def __init__(self, database: Database, quota: int, most_bytes: int = 100 * 1024**3) -> None:
        self._db = database
        self._quota = quota
        self._most_bytes = most_bytes

    async def create(
        self,
        caller: Caller,
        profile: str,
        session_id: SessionId | None,
        services: Sequence[Service],
        snapshot_id: SnapshotId | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Sandbox, bool]:
        """The row, and whether this call made it. With a snapshot it is stored, else starting.

        Raises:
            QuotaExceededError: the organisation has as many as it may have, or as much stored.
            NotFoundError: it has no such snapshot.
        """
        row = {
            "id": new_sandbox_id(),
            "user_id": caller.user_id,
            "key_id": caller.key_id,
            "session_id": session_id,
            "profile": profile,
            "state": SandboxState.STORED if snapshot_id else SandboxState.STARTING,
            "fence": 1,
            "snapshot_id": snapshot_id,
            "services": [service.model_dump() for service in services],
            "idempotency_key": idempotency_key,
        }
        rows = await self._db.fetch(
            "SELECT is_new, (row_).* FROM create_sandbox(:org, :quota, :bytes, CAST(:row AS jsonb))",
            org=caller.org_id,
            quota=self._quota,
            bytes=self._most_bytes,
            row=orjson.dumps(row).decode(),
        )
        return _sandbox(rows[0]), rows[0].is_new

    async def get(self, org_id: OrgId, sandbox_id: SandboxId) -> Sandbox:
        """Raises `NotFoundError` also when it is another organisation's."""
        async with self._db.transaction(org_id) as connection:
            found = select(sandboxes).where(sandboxes.c.org_id == org_id, sandboxes.c.id == sandbox_id)
            row = (await connection.execute(found)).first()
        if row is None:
            raise NotFoundError("There is no such sandbox.")
        return _sandbox(row)

    async def page(
        self, org_id: OrgId, limit: int, before: SandboxId | None, *, with_ended: bool = False
    ) -> list[Sandbox]:
        """Newest first."""
        statement = select(sandboxes).where(sandboxes.c.org_id == org_id).order_by(sandboxes.c.id.desc()).limit(limit)
        if before:
            statement = statement.where(sandboxes.c.id < before)
        if not with_ended:
            statement = statement.where(sandboxes.c.state != SandboxState.ENDED)
        async with self._db.transaction(org_id) as connection:
            return [_sandbox(row) for row in await connection.execute(statement)]

    async def begin(self, org_id: OrgId, sandbox_id: SandboxId, stale_after_s: float = 30) -> Sandbox | None:
        """Take the next fence of one that is stored, or whose starter has been silent for so long, to start it.

        None: it is in another state, or somebody starts it. Raises `QuotaExceededError`.
        """
        rows = await self._db.fetch(
            "SELECT * FROM begin_sandbox(:org, :id, :quota, :bytes, :stale)",
            org=org_id,
            id=sandbox_id,
            quota=self._quota,
            bytes=self._most_bytes,
            stale=stale_after_s,
        )
        return _sandbox(rows[0]) if rows else None

    async def starting(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool:
        """Whoever starts it is at it still: it does not become stale. False: the fence has moved."""
        return bool(await self._change(org_id, sandbox_id, fence, [SandboxState.STARTING], {"started_at": "now"}))

    async def running(self, org_id: OrgId, sandbox_id: SandboxId, fence: int, lease: Lease, pool_id: str) -> bool:
        changes = {
            "state": SandboxState.RUNNING,
            "pool_id": pool_id,
            "node_id": lease.door.node_id,
            "lease": {"id": lease.id, "ttl_s": lease.ttl_s, "door": asdict(lease.door)},
        }
        return bool(await self._change(org_id, sandbox_id, fence, [SandboxState.STARTING], changes))

    async def frozen(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool:
        return bool(await self._change(org_id, sandbox_id, fence, _HELD, {"state": SandboxState.FROZEN}))

    async def thawed(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> bool:
        return bool(await self._change(org_id, sandbox_id, fence, _HELD, {"state": SandboxState.RUNNING}))

    async def stored(self, org_id: OrgId, fence: int, snapshot: Snapshot) -> bool:
        """The snapshot is all that is left of it. False: the fence has moved, and nothing was written."""
        return await self._store(org_id, fence, snapshot, SandboxState.STORED)

    async def add_snapshot(self, org_id: OrgId, fence: int, snapshot: Snapshot) -> bool:
        """It goes on; should it be lost, this is what is left."""
        return await self._store(org_id, fence, snapshot, None)

    async def lost(self, org_id: OrgId, sandbox_id: SandboxId, fence: int) -> SandboxState | None:
        """Back to its last snapshot, or the end. None: the fence has moved."""
        rows = await self._db.fetch("SELECT lose_sandbox(:org, :id, :fence)", org=org_id, id=sandbox_id, fence=fence)
        return SandboxState(rows[0][0]) if rows else None

    async def end(self, org_id: OrgId, sandbox_id: SandboxId, reason: EndReason, fence: int | None = None) -> bool:
        """False: it had ended before, or the fence has moved. One that failed gives its idempotency key back."""
        changes = {"state": SandboxState.ENDED, "lease": None, "ended_at": "now", "end_reason": reason}
        return bool(await self._change(org_id, sandbox_id, fence, _NOT_ENDED, changes))

    async def touch(self, sandbox_ids: Sequence[SandboxId]) -> None:
        """They are in use; over all organisations."""
        await self._db.fetch("SELECT touch_sandboxes(CAST(:ids AS text[]))", ids=list(sandbox_ids))

    # --- pools ---

    async def open_pool(self, pool_id: str, node_id: str) -> None:
        """A new life of this node's pool: what earlier ones held is lost."""
        await self._db.fetch("SELECT open_pool(:pool, :node)", pool=pool_id, node=node_id)

    async def beat_pool(self, pool_id: str) -> bool:
        """False: it was taken for dead, and what it held for lost."""
        rows = await self._db.fetch("SELECT beat_pool(:pool)", pool=pool_id)
        return bool(rows[0][0])

    async def lose_silent(self, older_than_s: float) -> int:
        """Take pools that have not beaten for so long for dead; returns how many sandboxes they held."""
        rows = await self._db.fetch("SELECT lose_silent_pools(:older)", older=older_than_s)
        return int(rows[0][0])

    # --- snapshots ---

    async def snapshot(self, org_id: OrgId, snapshot_id: SnapshotId) -> Snapshot:
        """Raises `NotFoundError`."""
        async with self._db.transaction(org_id) as connection:
            table = sandbox_snapshots
            found = select(table).where(table.c.org_id == org_id, table.c.id == snapshot_id)
            row = (await connection.execute(found)).first()
        if row is None:
            raise NotFoundError("There is no such snapshot.")
        return _snapshot(row)

    async def snapshots(
        self, org_id: OrgId, sandbox_id: SandboxId, limit: int, before: SnapshotId | None
    ) -> list[Snapshot]:
        """Newest first."""
        table = sandbox_snapshots
        ours = table.c.org_id == org_id
        statement = select(table).where(ours, table.c.sandbox_id == sandbox_id).order_by(table.c.id.desc()).limit(limit)
        if before:
            statement = statement.where(table.c.id < before)
        async with self._db.transaction(org_id) as connection:
            return [_snapshot(row) for row in await connection.execute(statement)]

    async def live_manifests(self, org_id: OrgId) -> list[str]:
        """What garbage collection must keep."""
        async with self._db.transaction(org_id) as connection:
            table = sandbox_snapshots
            found = await connection.execute(select(table.c.manifest).where(table.c.org_id == org_id).distinct())
            return list(found.scalars())

    async def check_store(self, org_id: OrgId, sandbox_id: SandboxId) -> None:
        """Before a snapshot somebody asked for. Raises `QuotaExceededError`: there is no room for another."""
        await self._db.fetch(
            "SELECT check_store(:org, :id, :most, :bytes)",
            org=org_id,
            id=sandbox_id,
            most=_MOST_SNAPSHOTS,
            bytes=self._most_bytes,
        )

    async def forget_snapshot(self, org_id: OrgId, sandbox_id: SandboxId, snapshot_id: SnapshotId) -> None:
        """What only it needed leaves the store within two days.

        Raises:
            NotFoundError: this sandbox has no such snapshot.
            ConflictError: a sandbox would come back from it.
        """
        rows = await self._db.fetch(
            "SELECT forget_snapshot(:org, :sandbox, :id)", org=org_id, sandbox=sandbox_id, id=snapshot_id
        )
        is_forgotten = rows[0][0]
        if is_forgotten is None:
            raise NotFoundError("This sandbox has no such snapshot.")
        if not is_forgotten:
            raise ConflictError(
                "A sandbox would come back from this snapshot. Take a newer one, or delete the sandbox."
            )

    async def forget_old_snapshots(self, *, keep: int, age_s: float) -> list[OrgId]:
        """Over all organisations, as also what ended long ago; returns those whose stores are to be cleared."""
        old = await self._db.fetch("SELECT * FROM orgs_with_old_snapshots(:age, :ended)", age=age_s, ended=_ENDED_S)
        for (org_id,) in old:
            await self._db.fetch(
                "SELECT forget_old_snapshots(:org, :keep, :age, :ended)",
                org=org_id,
                keep=keep,
                age=age_s,
                ended=_ENDED_S,
            )
        return [OrgId(row[0]) for row in await self._db.fetch("SELECT * FROM claim_stores(:every)", every=_DAY_S)]

    # --- the statements ---

    async def _change(
        self,
        org_id: OrgId,
        sandbox_id: SandboxId,
        fence: int | None,
        states: Sequence[SandboxState],
        changes: dict[str, Any],
    ) -> Sandbox | None:
        rows = await self._db.fetch(
            "SELECT * FROM change_sandbox(:org, :id, :fence, CAST(:states AS text[]), CAST(:changes AS jsonb))",
            org=org_id,
            id=sandbox_id,
            fence=fence,
            states=[state.value for state in states],
            changes=orjson.dumps(changes).decode(),
        )
        return _sandbox(rows[0]) if rows else None

    async def _store(self, org_id: OrgId, fence: int, snapshot: Snapshot, state: SandboxState | None) -> bool:
        rows = await self._db.fetch(
            "SELECT store_sandbox(:org, :fence, CAST(:snapshot AS jsonb), :state, :most)",
            org=org_id,
            fence=fence,
            snapshot=orjson.dumps(asdict(snapshot)).decode(),
            state=state,
            most=_MOST_SNAPSHOTS,
        )
        return bool(rows[0][0])


def _sandbox(row: Any) -> Sandbox:
    lease = None
    if row.lease:
        lease = Lease(row.lease["id"], row.id, row.fence, Door(**row.lease["door"]), row.lease["ttl_s"])
    return Sandbox(
        id=row.id,
        org_id=row.org_id,
        user_id=row.user_id,
        session_id=row.session_id,
        profile=row.profile,
        state=SandboxState(row.state),
        fence=row.fence,
        lease=lease,
        node_id=row.node_id,
        snapshot_id=row.snapshot_id,
        services=tuple(Service.model_validate(service) for service in row.services),
        created_at=row.created_at,
        active_at=row.active_at,
        ended_at=row.ended_at,
        end_reason=EndReason(row.end_reason) if row.end_reason else None,
        key_id=row.key_id,
    )


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(**{name: getattr(row, name) for name in Snapshot.__dataclass_fields__})
