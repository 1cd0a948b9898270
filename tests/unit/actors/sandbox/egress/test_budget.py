"""Bytes and turns of a sandbox."""

import pytest

from actors.sandbox.egress.budget import Allowance, Pace, Traffic
from serve_app.core.errors import EgressDeniedError
from tests.unit.actors.sandbox.egress.doubles import Hands


def test_both_ways_are_paid_from_one_allowance() -> None:
    allowance = Allowance(100)
    one, other = Traffic(allowance), Traffic(allowance)
    one.goes_up(40)
    assert other.came_down(b"x" * 50) == b"x" * 50
    assert one.came_down(b"y" * 50) == b"y" * 10
    assert (one.up_bytes, one.down_bytes, other.down_bytes, allowance.spent_bytes) == (40, 10, 50, 100)
    for move in (lambda: one.goes_up(1), lambda: other.came_down(b"z"), allowance.check):
        with pytest.raises(EgressDeniedError, match=r"the 100 bytes it may move.*egress\.bytes"):
            move()
    assert one.came_down(b"") == b"", "an end costs nothing"


def test_half_a_message_is_not_sent() -> None:
    traffic = Traffic(Allowance(10))
    with pytest.raises(EgressDeniedError):
        traffic.goes_up(11)


async def test_the_pace_fills_with_time_and_never_beyond_its_burst() -> None:
    clock = Hands()
    pace = Pace(clock, per_s=1000, burst=3)
    clock.at += 3600
    for _ in range(3):
        await pace.turn()
    assert pace._turns == 0
    await pace.turn()
    assert pace._turns == -1
    clock.at += 0.002
    await pace.turn()
    assert pace._turns == pytest.approx(0, abs=1e-6)
