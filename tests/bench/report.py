"""How measurements are written down."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table. `target` is empty where the figure only informs."""

    what: str
    measured: str
    target: str = ""


def median_and_spread(values: list[float], unit: str, digits: int = 1) -> str:
    """`12.3 ms [11.0–15.2]`: the median, and from the lowest to the highest tenth."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    return f"{statistics.median(ordered):.{digits}f} {unit} [{low:.{digits}f}–{high:.{digits}f}]"


def print_table(rows: list[Row]) -> None:
    print("| What | Measured | Target |")
    print("|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.measured} | {row.target} |")
