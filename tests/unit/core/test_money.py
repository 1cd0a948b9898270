"""Dollars and nano-dollars are each other's exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.domain.money import MOST_DOLLARS, dollars_of, nanos_of

MOST = MOST_DOLLARS * 10**9


@pytest.mark.parametrize(
    ("nanos", "dollars"),
    [(0, "0.00"), (12_500_000_000, "12.50"), (1, "0.000000001"), (-1_000_000_000, "-1.00"), (MOST, "9000000.00")],
)
def test_amounts_are_written_exactly(nanos: int, dollars: str) -> None:
    assert dollars_of(nanos) == dollars


@given(st.integers(0, MOST))
def test_what_is_written_reads_back_as_it_was(nanos: int) -> None:
    assert nanos_of(dollars_of(nanos)) == nanos


@pytest.mark.parametrize("text", ["", ".5", "5.", "+1", "-1", "1_000", "0x1", "1e2", "٣", "1\n", "9000000.000000001"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        nanos_of(text)
