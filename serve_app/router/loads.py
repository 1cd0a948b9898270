"""How busy, quick and healthy each model looks from this process."""

import time
from collections.abc import Callable
from dataclasses import dataclass

_LATENCY_WEIGHT = 0.2
_LATENCY_FRESH_S = 300.0
_HALF_LIFE_S = 30.0
_PRIOR = 1.0
"""An imagined success, so that one failure alone is no verdict."""
_MOST_KEYS = 10_000


@dataclass(slots=True)
class _Load:
    in_flight: int = 0
    latency_s: float = 0.0
    latency_at: float = float("-inf")
    good: float = 0.0
    bad: float = 0.0
    judged_at: float = 0.0


class Loads:
    """Keys are `Candidate.key`. Nothing here is shared between replicas; what must be is in Redis.

    Everything is forgotten with time: a model that was slow or failing gets no requests by which it could show that
    it has recovered.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._loads: dict[str, _Load] = {}

    def began(self, key: str) -> None:
        load = self._loads.get(key)
        if load is None:
            if len(self._loads) >= _MOST_KEYS:
                self._loads = {key: load for key, load in self._loads.items() if load.in_flight}
            load = self._loads[key] = _Load()
        load.in_flight += 1

    def first_byte(self, key: str, seconds: float) -> None:
        load = self._loads.get(key)
        if load is None:
            return
        now = self._monotonic()
        is_fresh = now - load.latency_at < _LATENCY_FRESH_S
        load.latency_s += (seconds - load.latency_s) * (_LATENCY_WEIGHT if is_fresh else 1.0)
        load.latency_at = now

    def ended(self, key: str, *, failed: bool) -> None:
        """Once for each `began`. `failed` is the provider's failure, not the caller's mistake or departure."""
        load = self._loads.get(key)
        if load is None:
            return
        load.in_flight = max(load.in_flight - 1, 0)
        now = self._monotonic()
        kept = 0.5 ** ((now - load.judged_at) / _HALF_LIFE_S)
        load.good = load.good * kept + (not failed)
        load.bad = load.bad * kept + failed
        load.judged_at = now

    def in_flight(self, key: str) -> int:
        load = self._loads.get(key)
        return load.in_flight if load else 0

    def latency_s(self, key: str) -> float | None:
        """Smoothed time to the first byte; None when there was no answer in the last five minutes."""
        load = self._loads.get(key)
        if load is None or self._monotonic() - load.latency_at >= _LATENCY_FRESH_S:
            return None
        return load.latency_s

    def failure_share(self, key: str) -> float:
        """Of the latest calls, from 0 to 1; a call counts half after thirty seconds."""
        load = self._loads.get(key)
        if load is None or load.bad == 0.0:
            return 0.0
        kept: float = 0.5 ** ((self._monotonic() - load.judged_at) / _HALF_LIFE_S)
        return load.bad * kept / ((load.good + load.bad) * kept + _PRIOR)
