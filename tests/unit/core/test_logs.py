"""Logs as an operator's tools read them."""

import json
import subprocess
import sys

PROGRAM = """
import sys
from serve_app.core.telemetry import configure_logs, get_logger
configure_logs("info", "test")
sys.stderr = None  # what a Serve replica does to it, only worse
get_logger().debug("not shown")
get_logger().info("hello", api_key="aek_secret", authorization="Bearer x", user="me")
try:
    raise ValueError("broken")
except ValueError:
    get_logger().exception("failed")
"""


def test_each_line_is_json_with_its_component_and_without_secrets() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    hello, failed = (json.loads(line) for line in done.stderr.splitlines())
    assert (hello["event"], hello["component"], hello["level"], hello["user"]) == ("hello", "test", "info", "me")
    assert "aek_secret" not in done.stderr
    assert "Bearer" not in done.stderr
    assert "ValueError: broken" in failed["exception"]


REQUESTS = """
from serve_app.core.telemetry import configure_logs, span
from serve_app.core.telemetry.logs import request_id, request_line
for level in ("info", "warning"):
    configure_logs(level, "test")
    with span("above", {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-00"}), span("below"):
        request_id.set("req_1")
        request_line("test")("POST", "/v1/x\\udcff", 200, 1.25)
"""


def test_the_line_of_a_request_is_like_any_other_and_obeys_the_level() -> None:
    done = subprocess.run([sys.executable, "-c", REQUESTS], capture_output=True, text=True, check=True)
    (line,) = (json.loads(text) for text in done.stderr.splitlines())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request", "component": "test", "level": "info", "request_id": "req_1", "trace_id": "a" * 32,
        "method": "POST", "path": "/v1/x?", "status": 200, "ms": 1.25,
    }  # fmt: skip
