"""How demands and verdicts travel, and when a budget's period begins."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from serve_app.core.db.repositories.ledger import encode_entry
from serve_app.core.domain.spending import (
    Allowance,
    Budget,
    Demand,
    Limit,
    Outcome,
    Period,
    Reservation,
    Scope,
    Usage,
    model_key,
    period_start,
)
from serve_app.core.stores.limits.base import Limited, Reason, Spent, Unloaded
from serve_app.core.stores.limits.wire import budget_expiry_ms, budget_key, decode_verdict, encode_control
from tests.spending import entry

_AT = datetime(2026, 7, 31, 23, 30, tzinfo=UTC)
_LIMIT = Limit(Scope("user", "usr_1"), requests=0, concurrency=5)
_BUDGET = Budget("bud_1", Scope("organisation", "org_1"), 900, "month")
_DEMAND = Demand("led_1", (_LIMIT,), (_BUDGET,), 7, ("k",), entry("led_1", reserved=40, at=_AT))


@pytest.mark.parametrize(
    ("period", "start"),
    [
        ("day", datetime(2026, 7, 31, tzinfo=UTC)),
        ("month", datetime(2026, 7, 1, tzinfo=UTC)),
        ("total", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_period_begins_in_utc_wherever_the_time_was_told(period: Period, start: datetime) -> None:
    assert period_start(period, _AT) == start
    assert period_start(period, _AT.astimezone(timezone(timedelta(hours=5)))) == start


@pytest.mark.parametrize("period", ["day", "month", "total"])
def test_a_sum_outlives_its_period(period: Period) -> None:
    budget = Budget("bud_1", _BUDGET.scope, 1, period)
    assert budget_expiry_ms(budget, _AT) > (_AT + timedelta(hours=1)).timestamp() * 1000


def test_a_budget_has_another_sum_in_another_period() -> None:
    assert budget_key(_BUDGET, _AT) == "bud_1:2026-07-01"
    assert budget_key(_BUDGET, _AT + timedelta(hours=1)) == "bud_1:2026-08-01"


def test_control_says_what_scripts_need_and_zero_is_a_limit() -> None:
    assert json.loads(encode_control(_DEMAND)) == [
        "led_1",
        7,
        40,
        [["user:usr_1", 0, -1, 5]],
        [["bud_1:2026-07-01", 900, budget_expiry_ms(_BUDGET, _AT)]],
        ["k"],
    ]


def test_verdicts_are_read() -> None:
    assert decode_verdict([0, 0, 0, 0, 10, 9, 6000, 0, 0, 0, 1500], _DEMAND) == Reservation(
        "led_1", requests=Allowance(10, 9, 6.0), cooldowns={"k": 1.5}
    )
    assert decode_verdict([0, 0, 0, 0, 0, 0, 0, 8, 1, 9, -1], _DEMAND) == Reservation(
        "led_1", tokens=Allowance(8, 1, 0.009), half_open=frozenset({"k"})
    )
    assert decode_verdict([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, [-1, b"gpt", 2500]], _DEMAND) == Reservation(
        "led_1", cooldowns={model_key("k", "gpt"): 2.5}, half_open=frozenset({"k"})
    )
    assert decode_verdict([1, 1, 3, 1000, 0, 0, 0, 0, 0, 0, 0], _DEMAND) == Limited(
        _LIMIT, Reason.CONCURRENCY, 1.0, None, None
    )
    assert decode_verdict([2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], _DEMAND) == Spent(_BUDGET)
    assert decode_verdict([3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], _DEMAND) == Unloaded(_BUDGET)


def test_an_abandoned_entry_costs_what_was_reserved() -> None:
    made = entry("led_1", reserved=40, cost=3, usage=Usage(1, 2, 3, 4, 5), groups=("grp_1",))
    assert json.loads(encode_entry(made))["cost"] == 3
    abandoned = json.loads(encode_entry(made, is_abandoned=True))
    assert (abandoned["cost"], abandoned["outcome"]) == (40, Outcome.ABANDONED)
    assert abandoned["groups"] == ["grp_1"]


def test_an_entry_never_holds_what_the_database_cannot() -> None:
    made = entry("led_1", user_id="a\x00b")
    assert json.loads(encode_entry(made))["user_id"] == "a\ufffdb"
