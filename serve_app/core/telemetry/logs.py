"""Structured logs: one JSON object a line on stderr, carrying the trace and whatever is bound to the context."""

import logging
from typing import Any

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger

_SECRET_WORDS = ("secret", "password", "authorization", "api_key", "cookie")


def _add_trace(_logger: Any, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
    return event


def _mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "[masked]"
    return event


def configure_logs(level: str, component: str) -> None:
    """Make this process log as `component`. Idempotent."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_trace,
            _mask_secrets,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=orjson.dumps, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # The descriptor, not `sys.stderr`: a Serve replica replaces that by a logger which keeps lines to itself.
        logger_factory=structlog.BytesLoggerFactory(open(2, "wb", buffering=0, closefd=False)),  # noqa: SIM115 - a descriptor that is not ours to close
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(component=component)


def get_logger() -> FilteringBoundLogger:
    """A logger that reads its configuration when it is used."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger
