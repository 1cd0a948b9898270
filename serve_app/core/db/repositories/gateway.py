"""An organisation's limits, budgets, groups, own catalogue entries, provider keys and policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Table, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.gateway import (
    budgets,
    gateway_policies,
    group_members,
    groups,
    limits,
    org_aliases,
    org_models,
    org_providers,
    provider_keys,
)
from serve_app.core.domain.ids import BudgetId, GroupId, OrgId, ProviderKeyId, UserId, new_budget_id, new_group_id
from serve_app.core.domain.spending import Budget, Limit, Period, Scope
from serve_app.core.errors import ConflictError, NotFoundError

EntryKind = Literal["model", "alias", "provider"]
_ENTRIES: dict[EntryKind, Table] = {"model": org_models, "alias": org_aliases, "provider": org_providers}
_PAGE = 1000


@dataclass(frozen=True)
class Group:
    """Users who share limits and budgets."""

    id: GroupId
    name: str
    members: tuple[UserId, ...]


@dataclass(frozen=True)
class ProviderKey:
    """A provider's key as anyone may see it: never the key itself."""

    id: ProviderKeyId
    provider: str
    name: str
    fingerprint: str
    created_at: datetime
    disabled_at: datetime | None


class SqlGatewayRepository:
    """All of it in PostgreSQL. Names are an organisation's own: another's are as if they did not exist."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def policy(self, org_id: OrgId) -> dict[str, Any]:
        """Everything a request of this organisation depends on; one round trip.

        Keys: `limits budgets groups models aliases providers keys policy`, as `gateway_policy` in the migration
        builds them; a key's `sealed` is base64.
        """
        rows = await self._db.fetch("SELECT gateway_policy(:org)", org=org_id)
        return dict(rows[0][0])

    # --- limits ---

    async def limits(self, org_id: OrgId) -> list[Limit]:
        rows = await self._all(org_id, select(limits).order_by(limits.c.scope_kind, limits.c.scope_id))
        return [Limit(Scope(row.scope_kind, row.scope_id), row.requests, row.tokens, row.concurrency) for row in rows]

    async def set_limit(self, org_id: OrgId, limit: Limit) -> None:
        """Replaces the scope's limit."""
        numbers = {"requests": limit.requests, "tokens": limit.tokens, "concurrency": limit.concurrency}
        names = {"org_id": org_id, "scope_kind": limit.scope.kind, "scope_id": limit.scope.id}
        await self._put(org_id, limits, names, numbers)

    async def delete_limit(self, org_id: OrgId, scope: Scope) -> None:
        await self._delete(org_id, limits, limits.c.scope_kind == scope.kind, limits.c.scope_id == scope.id)

    # --- budgets ---

    async def budgets(self, org_id: OrgId) -> list[Budget]:
        rows = await self._all(org_id, select(budgets).order_by(budgets.c.id))
        return [Budget(row.id, Scope(row.scope_kind, row.scope_id), row.amount, row.period) for row in rows]

    async def add_budget(self, org_id: OrgId, scope: Scope, amount: int, period: Period) -> Budget:
        budget = Budget(new_budget_id(), scope, amount, period)
        async with self._db.transaction(org_id) as connection:
            await connection.execute(
                insert(budgets).values(
                    id=budget.id,
                    org_id=org_id,
                    scope_kind=scope.kind,
                    scope_id=scope.id,
                    amount=amount,
                    period=period,
                )
            )
        return budget

    async def set_amount(self, org_id: OrgId, budget_id: BudgetId, amount: int) -> None:
        """Raises `NotFoundError`."""
        await self._update(org_id, budgets, budgets.c.id == budget_id, amount=amount)

    async def delete_budget(self, org_id: OrgId, budget_id: BudgetId) -> None:
        await self._delete(org_id, budgets, budgets.c.id == budget_id)

    # --- groups ---

    async def groups(self, org_id: OrgId) -> list[Group]:
        members = func.array_remove(func.array_agg(group_members.c.user_id), None)
        joined = groups.outerjoin(group_members, group_members.c.group_id == groups.c.id)
        statement = select(groups.c.id, groups.c.name, members.label("members")).select_from(joined)
        rows = await self._all(org_id, statement.group_by(groups.c.id, groups.c.name).order_by(groups.c.id))
        return [Group(row.id, row.name, tuple(sorted(row.members))) for row in rows]

    async def add_group(self, org_id: OrgId, name: str) -> Group:
        """Raises `ConflictError` when the name is taken."""
        group = Group(new_group_id(), name, ())
        async with self._db.transaction(org_id) as connection:
            await connection.execute(insert(groups).values(id=group.id, org_id=org_id, name=name))
        return group

    async def delete_group(self, org_id: OrgId, group_id: GroupId) -> None:
        await self._delete(org_id, groups, groups.c.id == group_id)

    async def set_members(self, org_id: OrgId, group_id: GroupId, user_ids: Sequence[UserId]) -> None:
        """Replaces a group's members.

        Raises:
            NotFoundError: the organisation has no such group, or one of the users is not in it.
        """
        rows = [{"org_id": org_id, "group_id": group_id, "user_id": user} for user in dict.fromkeys(user_ids)]
        try:
            async with self._db.transaction(org_id) as connection:
                # A group that is not there must also be told when it is to have no members.
                if not (await connection.execute(select(groups.c.id).where(groups.c.id == group_id))).first():
                    raise NotFoundError("There is no such group.")
                await connection.execute(delete(group_members).where(group_members.c.group_id == group_id))
                if rows:
                    await connection.execute(insert(group_members).values(rows))
        except ConflictError as exc:
            raise NotFoundError("Not all of these users are in this organisation.") from exc

    # --- the organisation's own models, aliases and providers ---

    async def entries(self, org_id: OrgId, kind: EntryKind) -> list[dict[str, Any]]:
        table = _ENTRIES[kind]
        return [row.entry for row in await self._all(org_id, select(table.c.entry).order_by(table.c.id))]

    async def put_entry(self, org_id: OrgId, kind: EntryKind, entry: dict[str, Any]) -> None:
        """Adds or replaces; `entry` is a valid entry of the catalogue, with its `id`."""
        await self._put(org_id, _ENTRIES[kind], {"org_id": org_id, "id": entry["id"]}, {"entry": entry})

    async def delete_entry(self, org_id: OrgId, kind: EntryKind, entry_id: str) -> None:
        table = _ENTRIES[kind]
        await self._delete(org_id, table, table.c.id == entry_id)

    # --- keys of providers ---

    async def provider_keys(self, org_id: OrgId) -> list[ProviderKey]:
        columns = [provider_keys.c[name] for name in ProviderKey.__dataclass_fields__]
        rows = await self._all(org_id, select(*columns).order_by(provider_keys.c.id))
        return [ProviderKey(**row._mapping) for row in rows]

    async def add_provider_key(
        self, org_id: OrgId, key_id: ProviderKeyId, provider: str, name: str, sealed: bytes, fingerprint: str
    ) -> None:
        """The id comes from the caller, who has bound the sealed bytes to it."""
        async with self._db.transaction(org_id) as connection:
            await connection.execute(
                insert(provider_keys).values(
                    id=key_id, org_id=org_id, provider=provider, name=name, sealed=sealed, fingerprint=fingerprint
                )
            )

    async def disable_provider_key(self, org_id: OrgId, key_id: ProviderKeyId) -> None:
        """For good: what was sealed is gone. Raises `NotFoundError`."""
        at = func.coalesce(provider_keys.c.disabled_at, func.now())
        await self._update(org_id, provider_keys, provider_keys.c.id == key_id, disabled_at=at, sealed=b"")

    # --- policy ---

    async def set_policy(self, org_id: OrgId, *, cache_ttl_s: int | None, log_mode: str) -> None:
        values = {"cache_ttl_s": cache_ttl_s, "log_mode": log_mode}
        await self._put(org_id, gateway_policies, {"org_id": org_id}, values)

    async def forget_expired_responses(self) -> int:
        """Over all organisations; returns how many went."""
        rows = await self._db.fetch("SELECT forget_expired_responses()")
        return int(rows[0][0])

    async def _all(self, org_id: OrgId, statement: Any) -> Sequence[Any]:
        async with self._db.transaction(org_id) as connection:
            return (await connection.execute(statement.limit(_PAGE))).all()

    async def _put(self, org_id: OrgId, table: Table, names: dict[str, Any], values: dict[str, Any]) -> None:
        statement = insert(table).values(**names, **values)
        statement = statement.on_conflict_do_update(index_elements=list(names), set_=values)
        async with self._db.transaction(org_id) as connection:
            await connection.execute(statement)

    async def _update(self, org_id: OrgId, table: Table, which: ColumnElement[bool], **values: Any) -> None:
        async with self._db.transaction(org_id) as connection:
            if (await connection.execute(update(table).where(which).values(**values))).rowcount == 0:
                raise NotFoundError("There is no such thing in this organisation.")

    async def _delete(self, org_id: OrgId, table: Table, *which: ColumnElement[bool]) -> None:
        """Raises `NotFoundError`."""
        async with self._db.transaction(org_id) as connection:
            if (await connection.execute(delete(table).where(*which))).rowcount == 0:
                raise NotFoundError("There is no such thing in this organisation.")
