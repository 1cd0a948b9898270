"""The ledger: what every call to a model cost. Written in batches over all organisations, read by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson
from sqlalchemy import ColumnElement, cast, func, literal, select, tuple_
from sqlalchemy.types import Date, Text

from serve_app.core.db.engine import Database
from serve_app.core.db.tables.gateway import ledger
from serve_app.core.domain.ids import OrgId
from serve_app.core.domain.spending import LedgerEntry, Outcome, Price, Scope, Usage

Grouping = Literal["day", "model", "provider", "user", "key"]

_GROUPINGS: dict[Grouping, ColumnElement[Any]] = {
    "day": cast(cast(func.timezone("UTC", ledger.c.at), Date), Text),
    "model": ledger.c.model,
    "provider": ledger.c.provider,
    "user": ledger.c.user_id,
    "key": func.coalesce(ledger.c.key_id, literal("")),
}


@dataclass(frozen=True)
class UsageSum:
    """What the calls of one day, model, provider, user or key add up to. `cost` is in nano-dollars."""

    group: str
    calls: int
    usage: Usage
    cost: int


def encode_entry(entry: LedgerEntry, *, is_abandoned: bool = False) -> bytes:
    """An entry as JSON, by the names of the table's columns: how it travels before it is in the table.

    Abandoned: as it shall be written if the process dies, at what is reserved.
    """
    usage, price = entry.usage, entry.price
    encoded = orjson.dumps(
        {
            "id": entry.id,
            "org_id": entry.org_id,
            "user_id": entry.user_id,
            "key_id": entry.key_id,
            "at": entry.at,
            "model": entry.model,
            "provider": entry.provider,
            "credential": entry.credential,
            "dialect": entry.dialect,
            "outcome": Outcome.ABANDONED if is_abandoned else entry.outcome,
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "cached_tokens": usage.cached,
            "cache_written_tokens": usage.cache_written,
            "reasoning_tokens": usage.reasoning,
            "is_estimated": entry.is_estimated,
            "cost": entry.reserved if is_abandoned else entry.cost,
            "reserved": entry.reserved,
            "price": price,
            "duration_ms": entry.duration_ms,
            "session_id": entry.session_id,
            "request_id": entry.request_id,
            "groups": entry.groups,
        }
    )
    # PostgreSQL's JSON has no NUL.
    return encoded.replace(b"\\u0000", b"\\ufffd") if b"\\u0000" in encoded else encoded


class SqlLedgerRepository:
    """The ledger in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def append(self, entries: Sequence[bytes]) -> int:
        """Write entries (`encode_entry`) of any organisations; one statement. Those that are there already stay.

        Returns how many were new.

        Raises:
            UnavailableError: PostgreSQL cannot be reached; nothing is known of the entries. Try again.
        """
        rows = await self._db.fetch(
            "SELECT count(*) FROM append_ledger(CAST(:entries AS jsonb))",
            entries=(b"[" + b",".join(entries) + b"]").decode(),
        )
        return int(rows[0][0])

    async def spent(self, org_id: OrgId, scope: Scope, since: datetime, without: Sequence[str] = ()) -> int:
        """Nano-dollars; the entries named in `without` do not count."""
        rows = await self._db.fetch(
            "SELECT budget_spent(:org, :kind, :id, :since, CAST(:without AS text[]))",
            org=org_id,
            kind=scope.kind,
            id=scope.id,
            since=since,
            without=list(without),
        )
        return int(rows[0][0])

    async def spent_each(self, org_id: OrgId, scopes: Sequence[tuple[Scope, datetime]]) -> list[int]:
        """`spent` of many, each since its own time; one round trip."""
        rows = await self._db.fetch(
            "SELECT budget_spent(:org, kind, id, since) FROM unnest(CAST(:kinds AS text[]), CAST(:ids AS text[]), "
            "CAST(:times AS timestamptz[])) WITH ORDINALITY AS asked (kind, id, since, place) ORDER BY place",
            org=org_id,
            kinds=[scope.kind for scope, _ in scopes],
            ids=[scope.id for scope, _ in scopes],
            times=[since for _, since in scopes],
        )
        return [int(row[0]) for row in rows]

    async def page(
        self, org_id: OrgId, limit: int, before: str | None = None, user_id: str | None = None
    ) -> list[LedgerEntry]:
        """Newest first; `before` is the id of the last entry seen."""
        statement = select(ledger).order_by(ledger.c.at.desc(), ledger.c.id.desc()).limit(limit)
        if before:
            seen = select(ledger.c.at, ledger.c.id).where(ledger.c.id == before).scalar_subquery()
            statement = statement.where(tuple_(ledger.c.at, ledger.c.id) < seen)
        if user_id:
            statement = statement.where(ledger.c.user_id == user_id)
        async with self._db.transaction(org_id) as connection:
            return [_entry(row) for row in await connection.execute(statement.where(ledger.c.org_id == org_id))]

    async def sums(
        self, org_id: OrgId, by: Grouping, since: datetime, until: datetime, user_id: str | None = None
    ) -> list[UsageSum]:
        """What was used in `[since, until)`, the dearest first; days in their order. At most 1,000."""
        group = _GROUPINGS[by].label("group")
        sums = [func.sum(ledger.c[f"{kind}_tokens"]) for kind in _KINDS]
        cost = func.sum(ledger.c.cost).label("cost")
        statement = (
            select(group, func.count(), cost, *sums)
            .where(ledger.c.org_id == org_id, ledger.c.at >= since, ledger.c.at < until)
            .group_by(group)
            .order_by(group if by == "day" else cost.desc())
            .limit(1000)
        )
        if user_id:
            statement = statement.where(ledger.c.user_id == user_id)
        async with self._db.transaction(org_id) as connection:
            return [
                UsageSum(name, calls, Usage(*(int(tokens) for tokens in rest)), int(spent))
                for name, calls, spent, *rest in await connection.execute(statement)
            ]


_KINDS = ("input", "output", "cached", "cache_written", "reasoning")


def _entry(row: Any) -> LedgerEntry:
    fields = dict(row._mapping)
    usage = Usage(*(fields.pop(f"{kind}_tokens") for kind in _KINDS))
    outcome, price, groups = Outcome(fields.pop("outcome")), Price(**fields.pop("price")), tuple(fields.pop("groups"))
    return LedgerEntry(**fields, usage=usage, outcome=outcome, price=price, groups=groups)
