"""What a gateway must reach against the others, and whether it does."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.load import Measured

Rounds = Mapping[str, list[Measured]]
"""The rounds of one kind of load, for each target by its short name."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    load: str
    value: Callable[[Measured], float]
    unit: str
    digits: int = 0

    def median(self, rounds: list[Measured]) -> float:
        return statistics.median(map(self.value, rounds))

    def cell(self, rounds: list[Measured]) -> str:
        """`1,234 /s (1,200–1,260)`: the median, and the slowest and fastest round."""
        values = [self.value(measured) for measured in rounds]
        middle, low, high = (f"{found:,.{self.digits}f}" for found in (self.median(rounds), min(values), max(values)))
        return f"{middle} {self.unit} ({low}–{high})"


RATE = Figure("requests/s, 32 clients", "whole-32", lambda m: m.rate, "/s")
STREAMS = Figure("streams/s of 100 chunks, 32 clients", "stream-32", lambda m: m.rate, "/s")
P50 = Figure("whole answer, 1 client, p50", "whole-1", lambda m: m.p50, "ms", 2)
P95 = Figure("whole answer, 1 client, p95", "whole-1", lambda m: m.p95, "ms", 2)
FIRST = Figure("first byte of a stream, 1 client, p50", "stream-1", lambda m: m.first_p50, "ms", 2)
THOUGHT = Figure("the same, the provider thinking 50 ms", "thought-1", lambda m: m.first_p50, "ms", 2)
FIGURES = (P50, P95, RATE, STREAMS, FIRST, THOUGHT)


@dataclass(frozen=True)
class Verdict:
    """A target, what was reached, and whether that is enough."""

    what: str
    reached: str
    wanted: str
    is_met: bool


def ratio(figure: Figure, loads: Mapping[str, Rounds], ours: str, other: str) -> float | None:
    rounds = loads[figure.load]
    if ours not in rounds or other not in rounds:
        return None
    return figure.median(rounds[ours]) / (figure.median(rounds[other]) or float("nan"))


def judge(loads: Mapping[str, Rounds]) -> list[Verdict]:
    """Those targets for which both sides were measured."""
    found = []
    for what, figure, other, bound, at_least in (
        ("requests/s against LiteLLM", RATE, "litellm", 8.0, True),
        ("requests/s against Portkey", RATE, "portkey", 1.5, True),
        ("streams/s against LiteLLM", STREAMS, "litellm", 3.0, True),
        ("first byte against direct, the provider thinking 50 ms", THOUGHT, "direct", 1.1, False),
    ):
        reached = ratio(figure, loads, "ours", other)
        if reached is not None:
            sign, is_met = ("≥", reached >= bound) if at_least else ("≤", reached <= bound)
            found.append(Verdict(what, f"{reached:.2f}", f"{sign} {bound:g}", is_met))
    rounds = loads[P50.load]
    if {"direct", "ours", "portkey"} <= rounds.keys():
        base = P50.median(rounds["direct"])
        added, theirs = (P50.median(rounds[name]) - base for name in ("ours", "portkey"))
        found.append(Verdict("added p50, 1 client, against Portkey's", f"{added:.2f} ms", f"≤ {theirs:.2f} ms",
                             added <= theirs))  # fmt: skip
    return found


def judge_memory(sizes: list[int]) -> Verdict:
    growth = sizes[-1] / sizes[0] - 1
    reached = f"{growth:+.1%} ({sizes[0] / 2**20:.0f} → {sizes[-1] / 2**20:.0f} MiB)"
    return Verdict("resident memory of the replica over the soak", reached, "< 5 %", growth < 0.05)
