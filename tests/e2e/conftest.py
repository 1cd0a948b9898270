"""A platform as a user has it: brought up by `aether up`, reached over HTTP, taken down by `aether down`."""

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

AETHER = Path(sys.executable).with_name("aether")


@dataclass
class Platform:
    """A running platform of this test run's own."""

    data_dir: Path
    port: int
    owner_key: str
    up_output: str
    environ: dict[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def aether(self, *arguments: str, timeout_s: float = 120, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [AETHER, *arguments], env=self.environ, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert not check or done.returncode == 0, f"aether {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.aether("status", "--json").stdout)
        return found

    def client(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key or self.owner_key}"},
            trust_env=False,
            timeout=60,
        )

    def processes(self) -> list[psutil.Process]:
        """Everything this platform runs, by what it was started with."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("AETHER_DATA_DIR") == str(self.data_dir) or any(
                    str(self.data_dir) in part for part in process.cmdline()
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def kill_9(self, name: str) -> int:
        """`kill -9` the process that `aether status` calls `name` (a part of it); returns its pid."""
        pids = [p["pid"] for p in self.status()["processes"] if name in p["component"]]
        assert pids, f"no process called {name}"
        os.kill(pids[0], signal.SIGKILL)
        return int(pids[0])

    def wait_until(self, what: str, check: Any, timeout_s: float = 60) -> Any:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if found := check():
                    return found
            except (httpx.TransportError, AssertionError):
                pass
            time.sleep(0.1)
        raise AssertionError(f"not within {timeout_s} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environ(data_dir: Path, port: int, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AETHER_", "RAY_"))}
    return {**kept, "AETHER_DATA_DIR": str(data_dir), "AETHER_HTTP_PORT": str(port), **more}


class TraceReceiver:
    """An OTLP/HTTP receiver that keeps what it is sent: (trace id, service, span name)."""

    def __init__(self) -> None:
        self.spans: set[tuple[str, str, str]] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                receiver.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it overrides
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                self.spans |= {(span.trace_id.hex(), service, span.name) for span in scope.spans}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="session")
def traces() -> Iterator[TraceReceiver]:
    receiver = TraceReceiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="session")
def platform(traces: TraceReceiver) -> Iterator[Platform]:
    folder = Path(tempfile.mkdtemp(prefix="aether-e2e-", dir="/tmp"))
    data_dir = folder / "data"
    port = free_port()
    environ = clean_environ(
        data_dir, port, AETHER_SESSION_MAX_ANSWER_TOKENS="120", AETHER_TELEMETRY_OTLP_ENDPOINT=traces.url
    )
    started = subprocess.run(
        [AETHER, "up", "--detach"], env=environ, capture_output=True, text=True, timeout=180, check=False
    )
    output = started.stdout + started.stderr
    running = Platform(data_dir, port, "", output, environ)
    try:
        assert started.returncode == 0, output
        running.owner_key = next(word for word in output.split() if word.startswith("aek_"))
        yield running
    finally:
        running.aether("down", check=False)
        left = running.processes()
        for process in left:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"left running after `aether down`: {left}"
