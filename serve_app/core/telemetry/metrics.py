"""The metrics AetherOS publishes, and the port that carries them.

Shells inject `RayMetrics`, which hands values to Ray's node agent; every node serves them to Prometheus.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


@dataclass(frozen=True)
class Metric:
    """One published series. Tags never hold an id: their number of values must stay small."""

    kind: Literal["counter", "histogram"]
    description: str
    tags: tuple[str, ...]
    buckets: tuple[float, ...] = _SECONDS


CATALOGUE: dict[str, Metric] = {
    "aether_http_requests": Metric("counter", "HTTP requests answered", ("component", "method", "status")),
    "aether_http_request_seconds": Metric(
        "histogram", "Time to the end of the HTTP answer, streams included", ("component", "method")
    ),
    "aether_model_tokens": Metric("counter", "Tokens read and written by models", ("model", "direction")),
    "aether_model_first_token_seconds": Metric("histogram", "Time to a model's first token", ("model",)),
    "aether_gateway_calls": Metric("counter", "Calls to models, by how they ended", ("model", "outcome")),
    "aether_gateway_tokens": Metric("counter", "Tokens charged to callers", ("model", "direction")),
    "aether_gateway_refused": Metric("counter", "Calls that a limit or a budget stood against", ("reason",)),
    "aether_gateway_provider_failures": Metric("counter", "Attempts that a provider failed", ("provider", "code")),
    "aether_gateway_ledger_entries": Metric("counter", "Ledger entries written", ()),
    "aether_sandbox_leases": Metric("counter", "Sandboxes handed out", ("profile",)),
    "aether_sandbox_lost": Metric("counter", "Leased sandboxes that died by themselves", ("profile",)),
    "aether_session_events": Metric("counter", "Durable session events appended", ("type",)),
    "aether_turn_seconds": Metric("histogram", "Time from claiming a turn to its end", ("outcome",)),
    "aether_egress_requests": Metric("counter", "Requests of sandboxes to the outside", ("kind", "verdict")),
    "aether_egress_bytes": Metric("counter", "Bytes sandboxes moved to and from the outside", ("direction",)),
    "aether_outbox_published": Metric("counter", "Outbox rows handed to the broker", ("topic",)),
}


class Metrics(Protocol):
    """Where measured values go. Names and tags are those of `CATALOGUE`."""

    def count(self, name: str, value: float = 1.0, **tags: str) -> None: ...

    def observe(self, name: str, value: float, **tags: str) -> None: ...


class NullMetrics:
    """For processes that nobody scrapes, such as the command line."""

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Drop the value."""

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Drop the value."""
