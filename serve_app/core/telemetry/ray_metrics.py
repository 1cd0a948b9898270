"""Metrics through Ray's node agent, so that one Prometheus endpoint a node covers every worker on it."""

from ray.util.metrics import Counter, Histogram

from serve_app.core.telemetry.metrics import CATALOGUE


class RayMetrics:
    """Create once a worker process; instruments are registered with Ray on construction."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, metric in CATALOGUE.items():
            if metric.kind == "counter":
                self._counters[name] = Counter(name, description=metric.description, tag_keys=metric.tags)
            else:
                self._histograms[name] = Histogram(
                    name, description=metric.description, boundaries=list(metric.buckets), tag_keys=metric.tags
                )

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        if value > 0:  # Ray refuses a zero increment
            self._counters[name].inc(value, tags=tags)

    def observe(self, name: str, value: float, **tags: str) -> None:
        self._histograms[name].observe(value, tags=tags)
