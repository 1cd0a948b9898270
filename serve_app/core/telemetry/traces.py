"""OpenTelemetry traces that follow a request through HTTP, Serve handles and actors.

A hop carries the W3C `traceparent` as a plain dict (`carrier()`), and the far side continues it (`span(..., parent)`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

_TRACER = "aetheros"


def configure_traces(component: str, otlp_endpoint: str | None) -> None:
    """Send this process's spans to `otlp_endpoint` (OTLP over HTTP). Without one, spans only carry ids."""
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider(resource=Resource.create({"service.name": f"aetheros-{component}"}))
    if otlp_endpoint:
        exporter = OTLPSpanExporter(endpoint=otlp_endpoint.rstrip("/") + "/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)


def carrier() -> dict[str, str]:
    """The current trace as headers, for the next hop."""
    headers: dict[str, str] = {}
    inject(headers)
    return headers


@contextmanager
def span(
    name: str,
    parent: Mapping[str, str] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
) -> Iterator[Span]:
    """Run a block as a span, continuing `parent` when a hop brought one. An exception marks it failed."""
    context = extract(parent) if parent else None
    tracer = trace.get_tracer(_TRACER)
    with tracer.start_as_current_span(
        name,
        context=context,
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
