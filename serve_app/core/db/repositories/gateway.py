"""An organisation's limits, budgets, groups, own catalogue entries, provider keys and policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Column, ColumnElement, Select, Table, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.callers import api_keys, memberships
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
from serve_app.core.domain.ids import (
    BudgetId,
    GroupId,
    OrgId,
    ProviderKeyId,
    UserId,
    is_id,
    new_budget_id,
    new_group_id,
)
from serve_app.core.domain.spending import Budget, Limit, Period, Scope, ScopeKind
from serve_app.core.errors import ConflictError, NotFoundError

EntryKind = Literal["model", "alias", "provider"]
_ENTRIES: dict[EntryKind, Table] = {"model": org_models, "alias": org_aliases, "provider": org_providers}
_SCOPES: dict[ScopeKind, tuple[str, Column[Any]]] = {
    "organisation": ("org", memberships.c.org_id),
    "group": ("grp", groups.c.id),
    "user": ("usr", memberships.c.user_id),
    "key": ("key", api_keys.c.id),
    "credential": ("pky", provider_keys.c.id),
}
_PAGE = 1000
_MOST = 1000
"""Of anything, in one organisation: a call reads all of it."""


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


@dataclass(frozen=True)
class Habits:
    """How calls of an organisation are kept: answers for a while (None: not at all), and what of them is logged."""

    cache_ttl_s: int | None = None
    log_mode: Literal["off", "metadata", "full"] = "off"


class SqlGatewayRepository:
    """All of it in PostgreSQL. Names are an organisation's own: another's are as if they did not exist.

    Lists come in the order of their ids, `limit` at most, beginning behind `after`. What adds raises `ConflictError`
    when there are too many already.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def policy(self, org_id: OrgId) -> dict[str, Any]:
        """Everything a request of this organisation depends on; one round trip.

        Keys: `limits budgets groups models aliases providers keys policy`, as `gateway_policy` in the migration
        builds them; a key's `sealed` is base64.
        """
        rows = await self._db.fetch("SELECT gateway_policy(:org)", org=org_id)
        return dict(rows[0][0])

    async def must_exist(self, org_id: OrgId, scope: Scope) -> None:
        """Raises `NotFoundError` when the organisation has nobody and nothing of that id."""
        prefix, column = _SCOPES[scope.kind]
        if is_id(scope.id, prefix):
            async with self._db.transaction(org_id) as connection:
                if (await connection.execute(select(column).where(column == scope.id).limit(1))).first():
                    return
        raise NotFoundError(f"This organisation has no {scope.kind} {scope.id!r}.")

    # --- limits ---

    async def limits(self, org_id: OrgId, limit: int = _PAGE, after: Scope | None = None) -> list[Limit]:
        order = (limits.c.scope_kind, limits.c.scope_id)
        statement = select(limits).order_by(*order)
        if after:
            statement = statement.where(tuple_(*order) > (after.kind, after.id))
        rows = await self._all(org_id, statement.limit(limit))
        return [Limit(Scope(row.scope_kind, row.scope_id), row.requests, row.tokens, row.concurrency) for row in rows]

    async def set_limit(self, org_id: OrgId, limit: Limit) -> None:
        """Replaces the scope's limit."""
        numbers = {"requests": limit.requests, "tokens": limit.tokens, "concurrency": limit.concurrency}
        names = {"org_id": org_id, "scope_kind": limit.scope.kind, "scope_id": limit.scope.id}
        await self._put(org_id, limits, names, numbers)

    async def delete_limit(self, org_id: OrgId, scope: Scope) -> None:
        await self._delete(org_id, limits, limits.c.scope_kind == scope.kind, limits.c.scope_id == scope.id)

    # --- budgets ---

    async def budgets(self, org_id: OrgId, limit: int = _PAGE, after: str = "") -> list[Budget]:
        return [_budget(row) for row in await self._page(org_id, select(budgets), budgets.c.id, limit, after)]

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
            await _must_not_be_too_many(connection, budgets)
        return budget

    async def set_amount(self, org_id: OrgId, budget_id: BudgetId, amount: int) -> Budget:
        """Raises `NotFoundError`."""
        return _budget(await self._update(org_id, budgets, budgets.c.id == budget_id, amount=amount))

    async def delete_budget(self, org_id: OrgId, budget_id: BudgetId) -> None:
        await self._delete(org_id, budgets, budgets.c.id == budget_id)

    # --- groups ---

    async def groups(self, org_id: OrgId, limit: int = _PAGE, after: str = "") -> list[Group]:
        members = func.array_remove(func.array_agg(group_members.c.user_id), None)
        joined = groups.outerjoin(group_members, group_members.c.group_id == groups.c.id)
        statement = select(groups.c.id, groups.c.name, members.label("members")).select_from(joined)
        grouped = statement.group_by(groups.c.id, groups.c.name)
        rows = await self._page(org_id, grouped, groups.c.id, limit, after)
        return [Group(row.id, row.name, tuple(sorted(row.members))) for row in rows]

    async def add_group(self, org_id: OrgId, name: str) -> Group:
        """Raises `ConflictError` when the name is taken."""
        group = Group(new_group_id(), name, ())
        async with self._db.transaction(org_id) as connection:
            await connection.execute(insert(groups).values(id=group.id, org_id=org_id, name=name))
            await _must_not_be_too_many(connection, groups)
        return group

    async def delete_group(self, org_id: OrgId, group_id: GroupId) -> None:
        """With its limit and its budgets."""
        async with self._db.transaction(org_id) as connection:
            if (await connection.execute(delete(groups).where(groups.c.id == group_id))).rowcount == 0:
                raise NotFoundError("There is no such group.")
            for table in (limits, budgets):
                bound = (table.c.scope_kind == "group", table.c.scope_id == group_id)
                await connection.execute(delete(table).where(*bound))

    async def set_members(self, org_id: OrgId, group_id: GroupId, user_ids: Sequence[UserId]) -> Group:
        """Replaces a group's members.

        Raises:
            NotFoundError: the organisation has no such group, or one of the users is not in it.
        """
        users = tuple(sorted(set(user_ids)))
        rows = [{"org_id": org_id, "group_id": group_id, "user_id": user} for user in users]
        try:
            async with self._db.transaction(org_id) as connection:
                # A group that is not there must also be told when it is to have no members.
                name = (await connection.execute(select(groups.c.name).where(groups.c.id == group_id))).scalar()
                if name is None:
                    raise NotFoundError("There is no such group.")
                await connection.execute(delete(group_members).where(group_members.c.group_id == group_id))
                if rows:
                    await connection.execute(insert(group_members).values(rows))
        except ConflictError as exc:
            raise NotFoundError("Not all of these users are in this organisation.") from exc
        return Group(group_id, name, users)

    # --- the organisation's own models, aliases and providers ---

    async def entries(
        self, org_id: OrgId, kind: EntryKind, limit: int = _PAGE, after: str = ""
    ) -> list[dict[str, Any]]:
        table = _ENTRIES[kind]
        return [row.entry for row in await self._page(org_id, select(table), table.c.id, limit, after)]

    async def entry(self, org_id: OrgId, kind: EntryKind, entry_id: str) -> dict[str, Any] | None:
        table = _ENTRIES[kind]
        rows = await self._all(org_id, select(table.c.entry).where(table.c.id == entry_id))
        return dict(rows[0].entry) if rows else None

    async def put_entry(self, org_id: OrgId, kind: EntryKind, entry: dict[str, Any]) -> None:
        """Adds or replaces; `entry` is a valid entry of the catalogue, with its `id`."""
        await self._put(org_id, _ENTRIES[kind], {"org_id": org_id, "id": entry["id"]}, {"entry": entry})

    async def delete_entry(self, org_id: OrgId, kind: EntryKind, entry_id: str) -> None:
        table = _ENTRIES[kind]
        await self._delete(org_id, table, table.c.id == entry_id)

    # --- keys of providers ---

    async def provider_keys(self, org_id: OrgId, limit: int = _PAGE, after: str = "") -> list[ProviderKey]:
        rows = await self._page(org_id, select(*_SHOWN_OF_KEYS), provider_keys.c.id, limit, after)
        return [ProviderKey(**row._mapping) for row in rows]

    async def has_provider_key(self, org_id: OrgId, provider: str) -> bool:
        """Whether there is one that is not disabled."""
        usable = (provider_keys.c.provider == provider, provider_keys.c.disabled_at.is_(None))
        return bool(await self._all(org_id, select(provider_keys.c.id).where(*usable).limit(1)))

    async def add_provider_key(
        self, org_id: OrgId, key_id: ProviderKeyId, provider: str, name: str, sealed: bytes, fingerprint: str
    ) -> ProviderKey:
        statement = insert(provider_keys).values(
            id=key_id, org_id=org_id, provider=provider, name=name, sealed=sealed, fingerprint=fingerprint
        )
        async with self._db.transaction(org_id) as connection:
            row = (await connection.execute(statement.returning(*_SHOWN_OF_KEYS))).one()
            await _must_not_be_too_many(connection, provider_keys, provider_keys.c.disabled_at.is_(None))
        return ProviderKey(**row._mapping)

    async def disable_provider_key(self, org_id: OrgId, key_id: ProviderKeyId) -> None:
        """For good: what was sealed is gone. Raises `NotFoundError`."""
        at = func.coalesce(provider_keys.c.disabled_at, func.now())
        await self._update(org_id, provider_keys, provider_keys.c.id == key_id, disabled_at=at, sealed=b"")

    # --- policy ---

    async def habits(self, org_id: OrgId) -> Habits:
        rows = await self._all(org_id, select(gateway_policies.c.cache_ttl_s, gateway_policies.c.log_mode))
        return Habits(**rows[0]._mapping) if rows else Habits()

    async def set_policy(self, org_id: OrgId, *, cache_ttl_s: int | None, log_mode: str) -> None:
        values = {"cache_ttl_s": cache_ttl_s, "log_mode": log_mode}
        await self._put(org_id, gateway_policies, {"org_id": org_id}, values)

    async def forget_expired_responses(self) -> int:
        """Over all organisations; returns how many went."""
        rows = await self._db.fetch("SELECT forget_expired_responses()")
        return int(rows[0][0])

    async def _all(self, org_id: OrgId, statement: Any) -> Sequence[Any]:
        async with self._db.transaction(org_id) as connection:
            return (await connection.execute(statement)).all()

    async def _page(
        self, org_id: OrgId, statement: Select[Any], key: Column[Any], limit: int, after: str
    ) -> Sequence[Any]:
        return await self._all(org_id, statement.where(key > after).order_by(key).limit(limit))

    async def _put(self, org_id: OrgId, table: Table, names: dict[str, Any], values: dict[str, Any]) -> None:
        statement = insert(table).values(**names, **values)
        statement = statement.on_conflict_do_update(index_elements=list(names), set_=values)
        async with self._db.transaction(org_id) as connection:
            await connection.execute(statement)
            await _must_not_be_too_many(connection, table)

    async def _update(self, org_id: OrgId, table: Table, which: ColumnElement[bool], **values: Any) -> Any:
        """The row as it is now. Raises `NotFoundError`."""
        async with self._db.transaction(org_id) as connection:
            statement = update(table).where(which).values(**values).returning(table)
            row = (await connection.execute(statement)).first()
        if row is None:
            raise NotFoundError("There is no such thing in this organisation.")
        return row

    async def _delete(self, org_id: OrgId, table: Table, *which: ColumnElement[bool]) -> None:
        """Raises `NotFoundError`."""
        async with self._db.transaction(org_id) as connection:
            if (await connection.execute(delete(table).where(*which))).rowcount == 0:
                raise NotFoundError("There is no such thing in this organisation.")


_SHOWN_OF_KEYS = [provider_keys.c[name] for name in ProviderKey.__dataclass_fields__]


def _budget(row: Any) -> Budget:
    return Budget(row.id, Scope(row.scope_kind, row.scope_id), row.amount, row.period)


async def _must_not_be_too_many(connection: AsyncConnection, table: Table, *which: ColumnElement[bool]) -> None:
    """Within the transaction that added one, which is undone by the error."""
    if (await connection.execute(select(func.count()).select_from(table).where(*which))).scalar_one() > _MOST:
        raise ConflictError(f"An organisation has at most {_MOST} of these.")
