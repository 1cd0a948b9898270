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
