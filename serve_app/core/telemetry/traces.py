"""OpenTelemetry traces that follow a request through HTTP, Serve handles and actors.

A hop carries the W3C `traceparent` as a plain dict (`carrier()`), and the far side continues it (`span(..., parent)`).
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

_TRACER = "aetheros"
_NOT_SAMPLED = TraceFlags(0)


def configure_traces(component: str, otlp_endpoint: str | None) -> None:
    """Send this process's spans to `otlp_endpoint` (OTLP over HTTP). Without one, spans only carry ids."""
    if otlp_endpoint is None or isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider(resource=Resource.create({"service.name": f"aetheros-{component}"}))
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
    context = extract(parent) if parent and "traceparent" in parent else None
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        with Carried(context) as carried:
            yield carried.span
        return
    with provider.get_tracer(_TRACER).start_as_current_span(
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


def are_collected() -> bool:
    """Whether spans go anywhere from this process."""
    return isinstance(trace.get_tracer_provider(), TracerProvider)


class Carried:
    """A span where nobody collects any: only the ids go on, so that log lines of one request can be found by one id.

    This is a tenth of what a span costs.
    """

    __slots__ = ("_context", "_token", "span", "trace_id")

    def __init__(self, context: Context | None = None) -> None:
        self._context = context

    def __enter__(self) -> Self:
        above = trace.get_current_span(self._context).get_span_context()
        self.trace_id = above.trace_id if above.is_valid else random.getrandbits(128) | 1
        ids = SpanContext(self.trace_id, random.getrandbits(64) | 1, is_remote=False, trace_flags=_NOT_SAMPLED)
        self.span = NonRecordingSpan(ids)
        self._token = otel_context.attach(trace.set_span_in_context(self.span, self._context))
        return self

    def __exit__(self, *_: object) -> None:
        otel_context.detach(self._token)
