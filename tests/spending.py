"""Ledger entries and names for tests."""

import secrets
from datetime import UTC, datetime

from serve_app.core.domain.ids import KeyId, OrgId, UserId
from serve_app.core.domain.spending import LedgerEntry, Outcome, Price, Usage

NOW = datetime.now(UTC)
_NO_USAGE = Usage()


def unique(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(6)}"


def entry(
    entry_id: str,
    *,
    org_id: str = "org_none",
    user_id: str = "usr_none",
    reserved: int = 0,
    cost: int = 0,
    outcome: Outcome = Outcome.COMPLETED,
    usage: Usage = _NO_USAGE,
    at: datetime = NOW,
    groups: tuple[str, ...] = (),
) -> LedgerEntry:
    return LedgerEntry(
        id=entry_id,
        org_id=OrgId(org_id),
        user_id=UserId(user_id),
        key_id=KeyId("key_none"),
        at=at,
        model="m",
        provider="p",
        credential="c",
        dialect="openai-chat",
        outcome=outcome,
        usage=usage,
        is_estimated=False,
        cost=cost,
        reserved=reserved,
        price=Price(input=1000),
        duration_ms=12,
        groups=groups,
    )
