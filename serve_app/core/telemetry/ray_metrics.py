"""Metrics through Ray's node agent, so that one Prometheus endpoint a node covers every worker on it."""

import asyncio
from collections import defaultdict

from ray.util.metrics import Counter, Histogram

from serve_app.core.telemetry.metrics import CATALOGUE

_EVERY_S = 0.5
_Tags = tuple[tuple[str, str], ...]


class RayMetrics:
    """Create once a worker process; instruments are registered with Ray on construction.

    In an event loop values are kept for half a second and handed over together: Ray checks and merges the tags of each
    one, and takes ten microseconds for it. `flush` hands over at once.
    """

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._counted: defaultdict[tuple[str, _Tags], float] = defaultdict(float)
        self._observed: defaultdict[tuple[str, _Tags], list[float]] = defaultdict(list)
        self._is_due = False
        for name, metric in CATALOGUE.items():
            if metric.kind == "counter":
                self._counters[name] = Counter(name, description=metric.description, tag_keys=metric.tags)
            else:
                self._histograms[name] = Histogram(
                    name, description=metric.description, boundaries=list(metric.buckets), tag_keys=metric.tags
                )

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        if value <= 0:  # Ray refuses a zero increment
            return
        if self._may_wait():
            self._counted[name, tuple(tags.items())] += value
        else:
            self._counters[name].inc(value, tags=tags)

    def observe(self, name: str, value: float, **tags: str) -> None:
        if self._may_wait():
            self._observed[name, tuple(tags.items())].append(value)
        else:
            self._histograms[name].observe(value, tags=tags)

    def flush(self) -> None:
        """What was counted until now goes to Ray."""
        self._is_due = False
        counted, self._counted = self._counted, defaultdict(float)
        observed, self._observed = self._observed, defaultdict(list)
        for (name, tags), value in counted.items():
            self._counters[name].inc(value, tags=dict(tags))
        for (name, tags), values in observed.items():
            histogram, told = self._histograms[name], dict(tags)
            for value in values:
                histogram.observe(value, tags=told)

    def _may_wait(self) -> bool:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if not self._is_due:
            self._is_due = True
            loop.call_later(_EVERY_S, self.flush)
        return True
