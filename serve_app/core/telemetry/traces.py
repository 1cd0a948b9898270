"""OpenTelemetry traces that follow a request through HTTP, Serve handles and actors.

A hop carries the W3C `traceparent` as a plain dict (`carrier()`), and the far side continues it (`span(..., parent)`).
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

_TRACER = "aetheros"
_ids: ContextVar[tuple[int, int] | None] = ContextVar("trace and span", default=None)
"""Of the current span, where nobody collects spans."""


class _Process:
    """What the library keeps for the whole process as well; asking it costs microseconds each time."""

    provider: TracerProvider | None = None


def configure_traces(component: str, otlp_endpoint: str | None) -> None:
    """Send this process's spans to `otlp_endpoint` (OTLP over HTTP). Without one, spans only carry ids."""
    if otlp_endpoint is None or _Process.provider is not None:
        return
    provider = TracerProvider(resource=Resource.create({"service.name": f"aetheros-{component}"}))
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint.rstrip("/") + "/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)
    _Process.provider = provider


def carrier() -> dict[str, str]:
    """The current trace as headers, for the next hop."""
    if _Process.provider is not None:
        headers: dict[str, str] = {}
        inject(headers)
        return headers
    ids = _ids.get()
    return {"traceparent": f"00-{ids[0]:032x}-{ids[1]:016x}-00"} if ids else {}


def trace_id() -> str:
    """The current trace's, in hexadecimal; empty outside of any."""
    if _Process.provider is not None:
        context = trace.get_current_span().get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else ""
    ids = _ids.get()
    return f"{ids[0]:032x}" if ids else ""


@contextmanager
def span(
    name: str,
    parent: Mapping[str, str] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
) -> Iterator[Span]:
    """Run a block as a span, continuing `parent` when a hop brought one. An exception marks it failed."""
    provider = _Process.provider
    if provider is None:
        # Nobody collects spans here: only the ids go on, so that log lines of one request can be found by one id. A
        # span would cost ten times as much.
        above = _read(parent) or _ids.get()
        token = _ids.set((above[0] if above else random.getrandbits(128) | 1, random.getrandbits(64) | 1))
        try:
            yield trace.INVALID_SPAN
        finally:
            _ids.reset(token)
        return
    with provider.get_tracer(_TRACER).start_as_current_span(
        name,
        context=extract(parent) if parent and "traceparent" in parent else None,
        kind=kind,
        attributes=dict(attributes or {}),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as exc:
            # The type only: a message may quote what a user wrote.
            current.set_status(Status(StatusCode.ERROR, type(exc).__name__))
            raise


def _read(parent: Mapping[str, str] | None) -> tuple[int, int] | None:
    if not parent or "traceparent" not in parent:
        return None
    told = trace.get_current_span(extract(parent)).get_span_context()
    return (told.trace_id, told.span_id) if told.is_valid else None
