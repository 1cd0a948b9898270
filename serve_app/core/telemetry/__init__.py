"""Logs, traces and metrics: one place that decides their form, used by every process."""

from serve_app.core.telemetry.logs import configure_logs, get_logger
from serve_app.core.telemetry.metrics import Metrics, NullMetrics
from serve_app.core.telemetry.traces import carrier, configure_traces, span

__all__ = ["Metrics", "NullMetrics", "carrier", "configure_logs", "configure_traces", "get_logger", "span"]
