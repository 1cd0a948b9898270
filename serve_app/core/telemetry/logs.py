"""Structured logs: one JSON object a line on stderr, carrying the trace and whatever is bound to the context."""

import asyncio
import atexit
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from serve_app.core.telemetry.traces import trace_id

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered; stands in each of its lines."""
_LINES_WAIT_S = 0.1
_MOST_LINES = 100
_SECRET_WORDS = ("secret", "password", "authorization", "api_key", "cookie")


def _add_ids(_logger: Any, _method: str, event: EventDict) -> EventDict:
    if found := trace_id():
        event["trace_id"] = found
    if request := request_id.get():
        event.setdefault("request_id", request)
    return event


def _mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "[masked]"
    return event


class _Lines(structlog.BytesLoggerFactory):
    """The descriptor, not `sys.stderr`: a Serve replica replaces that by a logger which keeps lines to itself."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.file = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115 - a descriptor that is not ours to close
        super().__init__(self.file)


def configure_logs(level: str, component: str) -> None:
    """Make this process log as `component`. Idempotent."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_ids,
            _mask_secrets,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=orjson.dumps, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_Lines(number),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(component=component)


def get_logger() -> FilteringBoundLogger:
    """A logger that reads its configuration when it is used."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


class RequestLine(Protocol):
    """Writes what became of a request, at level info."""

    def __call__(self, method: str, path: str, status: int, ms: float) -> None: ...


def request_line(component: str) -> RequestLine:
    """As `get_logger().info("request", …)` would write it, for code that does it for every request.

    Through all that makes a line of a log event one costs thirty microseconds, which is a twentieth of a whole call to
    a model. Call it when logs are configured.
    """
    lines = structlog.get_config()["logger_factory"]
    if not isinstance(lines, _Lines):
        return _Plain(component)
    return _Fast(component, lines) if lines.level <= logging.INFO else _silent


def _silent(method: str, path: str, status: int, ms: float) -> None:
    """The level says that nobody wants it."""


class _Plain:
    """Where logs are as their library has them."""

    def __init__(self, component: str) -> None:
        self._component = component

    def __call__(self, method: str, path: str, status: int, ms: float) -> None:
        get_logger().info(
            "request", method=method, path=path, status=status, ms=ms,
            component=self._component, request_id=request_id.get(), trace_id=trace_id(),
        )  # fmt: skip


class _Fast:
    def __init__(self, component: str, lines: _Lines) -> None:
        self._component = component
        self._file = lines.file
        self._waiting: list[bytes] = []
        atexit.register(self._write)

    def __call__(self, method: str, path: str, status: int, ms: float) -> None:
        line = {
            "method": method,
            "path": path,
            "status": status,
            "ms": ms,
            "event": "request",
            "component": self._component,
            "request_id": request_id.get(),
            "trace_id": trace_id(),
            "level": "info",
            "timestamp": datetime.now(UTC),
        }
        try:
            text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)
        except orjson.JSONEncodeError:
            # A path may hold what is no text.
            line["path"] = path.encode("utf-8", "replace").decode()
            text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)
        self._waiting.append(text)
        if len(self._waiting) == 1:
            # Written a few at a time: each write costs as much as all the rest of this.
            try:
                asyncio.get_running_loop().call_later(_LINES_WAIT_S, self._write)
            except RuntimeError:
                self._write()
        elif len(self._waiting) >= _MOST_LINES:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._file.write(b"".join(waiting))
