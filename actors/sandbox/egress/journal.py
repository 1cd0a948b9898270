"""The record of every request that programs make to the outside: one line in the log each, and the metrics."""

from dataclasses import dataclass
from typing import Literal

from actors.sandbox.egress.budget import Allowance, Traffic
from serve_app.core.clock import Clock
from serve_app.core.domain.addresses import Address
from serve_app.core.domain.ids import OrgId, SandboxId
from serve_app.core.errors import AetherError, EgressDeniedError
from serve_app.core.telemetry import get_logger
from serve_app.core.telemetry.metrics import Metrics

_log = get_logger()

Kind = Literal["tunnel", "http", "connector", "none"]
"""`none`: it did not come as far as that."""
Verdict = Literal["allowed", "denied", "failed"]


@dataclass
class Counters:
    """What one sandbox has asked for."""

    requests: int = 0
    denied: int = 0
    up_bytes: int = 0
    down_bytes: int = 0


class Visit:
    """One request as it goes along. Of its address only the host and the port are written down: paths and queries,
    headers and bodies carry what people do not want in a log."""

    def __init__(self, traffic: Traffic, started_at: float) -> None:
        self.traffic = traffic
        self.kind: Kind = "none"
        self.host = ""
        self.port: int | None = None
        self.address: Address | None = None
        self.connector: str | None = None
        self.method = ""
        self.status: int | None = None
        self.has_ech = False
        self.verdict: Verdict = "allowed"
        self.reason = ""
        self.started_at = started_at

    def went_wrong(self, exc: AetherError) -> None:
        self.verdict = "denied" if isinstance(exc, EgressDeniedError) else "failed"
        self.reason = str(exc.details.get("reason") or exc.code)
        self.status = exc.status


class Journal:
    """One sandbox's record."""

    def __init__(
        self, org_id: OrgId, sandbox_id: SandboxId, allowance: Allowance, clock: Clock, metrics: Metrics
    ) -> None:
        self._org_id = org_id
        self._sandbox_id = sandbox_id
        self._allowance = allowance
        self._clock = clock
        self._metrics = metrics
        self.counters = Counters()

    def begin(self) -> Visit:
        return Visit(Traffic(self._allowance), self._clock.monotonic())

    def end(self, visit: Visit) -> None:
        traffic = visit.traffic
        self.counters.requests += 1
        self.counters.denied += visit.verdict == "denied"
        self.counters.up_bytes += traffic.up_bytes
        self.counters.down_bytes += traffic.down_bytes
        self._metrics.count("aether_egress_requests", kind=visit.kind, verdict=visit.verdict)
        self._metrics.count("aether_egress_bytes", traffic.up_bytes, direction="up")
        self._metrics.count("aether_egress_bytes", traffic.down_bytes, direction="down")
        optional = {"connector": visit.connector, "status": visit.status, "has_ech": visit.has_ech or None}
        _log.info(
            "egress",
            sandbox_id=self._sandbox_id,
            org_id=self._org_id,
            kind=visit.kind,
            method=visit.method,
            host=visit.host,
            port=visit.port,
            address=str(visit.address) if visit.address else None,
            up_bytes=traffic.up_bytes,
            down_bytes=traffic.down_bytes,
            verdict=visit.verdict,
            reason=visit.reason,
            duration_s=round(self._clock.monotonic() - visit.started_at, 3),
            **{key: value for key, value in optional.items() if value is not None},
        )
