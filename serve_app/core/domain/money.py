"""Dollars as people write them, "12.50", to and from the nano-dollars everything is counted in."""

import re
from decimal import Decimal

from serve_app.core.domain.spending import NANOS_PER_DOLLAR

MOST_DOLLARS = 9_000_000
"""A sum of nano-dollars must stay below 2⁵³: limits are decided where numbers are doubles."""
_DOLLARS = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?")


def nanos_of(dollars: str) -> int:
    """Raises `ValueError`, in words for whoever wrote the amount."""
    if not _DOLLARS.fullmatch(dollars):
        raise ValueError('must be dollars with at most nine decimals, such as "12.50"')
    nanos = int(Decimal(dollars) * NANOS_PER_DOLLAR)
    if nanos > MOST_DOLLARS * NANOS_PER_DOLLAR:
        raise ValueError(f"must be at most {MOST_DOLLARS} dollars")
    return nanos


def dollars_of(nanos: int) -> str:
    """Exact, with two decimals or as many as it needs."""
    whole, rest = divmod(abs(nanos), NANOS_PER_DOLLAR)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole}.{decimals}"
