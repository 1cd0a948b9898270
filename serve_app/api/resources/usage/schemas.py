"""Usage, as the API shows it. Money is US dollars as decimal strings."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel

from serve_app.core.db.repositories.ledger import UsageSum
from serve_app.core.domain.ids import KeyId, UserId
from serve_app.core.domain.money import dollars_of
from serve_app.core.domain.spending import LedgerEntry, Outcome, Usage

_OWN_KEY = "pky_"


class TokensOut(BaseModel):
    """`cached` and `cache_written` are parts of `input`, `reasoning` is a part of `output`."""

    input: int
    output: int
    cached: int
    cache_written: int
    reasoning: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        return cls.model_validate(usage, from_attributes=True)


class UsageSumOut(BaseModel):
    """`group` is a day, model, provider, user or key; empty: calls the platform made for a user without a key."""

    group: str
    calls: int
    tokens: TokensOut
    cost: str

    @classmethod
    def of(cls, found: UsageSum) -> Self:
        tokens = TokensOut.of(found.usage)
        return cls(group=found.group, calls=found.calls, tokens=tokens, cost=dollars_of(found.cost))


class UsageOut(BaseModel):
    """Of `[since, until)`."""

    since: datetime
    until: datetime
    items: list[UsageSumOut]


class EntryOut(BaseModel):
    """One call. `provider_key_id` only when it was made with a key of the organisation's own."""

    id: str
    at: datetime
    user_id: UserId
    key_id: KeyId | None
    model: str
    provider: str
    provider_key_id: str | None
    dialect: str
    outcome: Outcome
    tokens: TokensOut
    is_estimated: bool
    cost: str
    duration_ms: int
    session_id: str | None
    request_id: str | None

    @classmethod
    def of(cls, entry: LedgerEntry) -> Self:
        return cls(
            id=entry.id,
            at=entry.at,
            user_id=entry.user_id,
            key_id=entry.key_id,
            model=entry.model,
            provider=entry.provider,
            # How the platform names its own keys is not an organisation's business.
            provider_key_id=entry.credential if entry.credential.startswith(_OWN_KEY) else None,
            dialect=entry.dialect,
            outcome=entry.outcome,
            tokens=TokensOut.of(entry.usage),
            is_estimated=entry.is_estimated,
            cost=dollars_of(entry.cost),
            duration_ms=entry.duration_ms,
            session_id=entry.session_id,
            request_id=entry.request_id,
        )


class EntriesOut(BaseModel):
    items: list[EntryOut]
    next_cursor: str | None
