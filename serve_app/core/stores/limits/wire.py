"""How demands and verdicts travel to and from the scripts; `shared.lua` tells the other half."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson

from serve_app.core.domain.spending import (
    Allowance,
    Budget,
    Demand,
    Period,
    Reservation,
    Scope,
    model_key,
    period_start,
)
from serve_app.core.stores.limits.base import Limited, Reason, Spent, Unloaded, Verdict

_REASONS = {1: Reason.REQUESTS, 2: Reason.TOKENS, 3: Reason.CONCURRENCY, 4: Reason.TOO_LARGE}
# A period's sum is kept for a while after its end, for calls that began in it. The ledger has it for ever.
_AFTER = timedelta(days=1)
_KEEP = {"day": timedelta(days=1) + _AFTER, "month": timedelta(days=31) + _AFTER, "total": timedelta(days=30)}


def scope_key(scope: Scope) -> str:
    return f"{scope.kind}:{scope.id}"


def budget_key(budget: Budget, at: datetime) -> str:
    """A budget has one sum a period."""
    return f"{budget.id}:{_window(budget.period, at.astimezone(UTC).date())[0]}"


def budget_expiry_ms(budget: Budget, at: datetime) -> int:
    return _window(budget.period, at.astimezone(UTC).date())[1]


@lru_cache(maxsize=16)
def _window(period: Period, day: date) -> tuple[str, int]:
    """A period's name, and when its sum may be forgotten."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    start = period_start(period, noon)
    ends = (noon if period == "total" else start) + _KEEP[period]
    return f"{start:%Y-%m-%d}", int(ends.timestamp() * 1000)


def encode_control(demand: Demand) -> bytes:
    """What the scripts must know of a demand, without its entry."""
    at = demand.entry.at if demand.entry else None
    budgets = []
    if demand.budgets:
        at = at or datetime.now(UTC)
        budgets = [(budget_key(b, at), b.amount, budget_expiry_ms(b, at)) for b in demand.budgets]
    limits = [
        (scope_key(limit.scope), _bound(limit.requests), _bound(limit.tokens), _bound(limit.concurrency))
        for limit in demand.limits
    ]
    return orjson.dumps((demand.id, demand.tokens, demand.cost, limits, budgets, demand.health))


def _bound(number: int | None) -> int:
    return -1 if number is None else number


def decode_verdict(answer: Sequence[Any], demand: Demand) -> Verdict:
    match answer[0]:
        case 0:
            cooldowns, half_open = decode_cooldowns(demand.health, answer[10:])
            return Reservation(demand.id, _allowance(answer, 4), _allowance(answer, 7), cooldowns, half_open)
        case 1:
            return Limited(
                limit=demand.limits[answer[1] - 1],
                reason=_REASONS[answer[2]],
                retry_after_s=answer[3] / 1000,
                requests=_allowance(answer, 4),
                tokens=_allowance(answer, 7),
            )
        case 2:
            return Spent(demand.budgets[answer[1] - 1])
        case _:
            return Unloaded(demand.budgets[answer[1] - 1])


def _allowance(answer: Sequence[Any], at: int) -> Allowance | None:
    return Allowance(answer[at], answer[at + 1], answer[at + 2] / 1000) if answer[at] else None


def decode_cooldowns(keys: Sequence[str], answer: Sequence[Any]) -> tuple[dict[str, float], frozenset[str]]:
    """Milliseconds a key, -1 says half open; or a list of that, and of the models that rest with theirs."""
    cooling: dict[str, float] = {}
    half_open: list[str] = []
    for key, found in zip(keys, answer, strict=True):
        left = found
        if isinstance(found, list):
            left, *resting = found
            for at in range(0, len(resting), 2):
                cooling[model_key(key, resting[at].decode())] = resting[at + 1] / 1000
        if left > 0:
            cooling[key] = left / 1000
        elif left < 0:
            half_open.append(key)
    return cooling, frozenset(half_open)
