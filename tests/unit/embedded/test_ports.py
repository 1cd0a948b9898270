"""Ports, and what narrows HAProxy's to loopback."""

import errno
import socket
import subprocess
from pathlib import Path

from serve_app.embedded import haproxy
from serve_app.embedded.ports import bind_error, free_block, free_port
from serve_app.embedded.ray import RayPorts, ray_environment


def test_a_taken_port_is_noticed() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        error = bind_error("127.0.0.1", taken.getsockname()[1])
    assert error is not None
    assert error.errno == errno.EADDRINUSE


def test_free_ports_are_free() -> None:
    assert bind_error("127.0.0.1", free_port()) is None
    start = free_block(20)
    assert all(bind_error("127.0.0.1", port) is None for port in range(start, start + 20))


def test_the_wrapper_narrows_two_binds_and_becomes_haproxy(tmp_path: Path) -> None:
    binary = tmp_path / "the real one"
    binary.write_text('#!/bin/sh\necho "$@"\n')
    binary.chmod(0o700)
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "    stats socket /run/admin.sock mode 666 level admin\n"
        "frontend prometheus\n    bind :9101\n"
        "frontend http_frontend\n    bind 0.0.0.0:8000\n    bind *:80\n"
        "listen stats\n  bind *:8404\n  bind *:84040\n"
    )
    wrapper = haproxy.write_wrapper(tmp_path, binary, private_ports=(8404, 9101))
    said = subprocess.run([wrapper, "-db", "-f", config, "-sf", "12"], capture_output=True, text=True, check=True)
    assert said.stdout == f"-db -f {config} -sf 12\n"
    assert config.read_text() == (
        "    stats socket /run/admin.sock mode 600 level admin\n"
        "frontend prometheus\n    bind 127.0.0.1:9101\n"
        "frontend http_frontend\n    bind 0.0.0.0:8000\n    bind *:80\n"
        "listen stats\n  bind 127.0.0.1:8404\n  bind *:84040\n"
    )


def test_rays_environment_keeps_everything_in_the_run_folder(tmp_path: Path) -> None:
    environment = ray_environment(tmp_path, "a-token", RayPorts(1, 2, 9, 3, 4, 5, 6, 20000), fast_serve=True)
    assert environment["RAY_AUTH_MODE"] == "token"
    places = [value for name, value in environment.items() if name.startswith("RAY_SERVE_HAPROXY_") and "/" in value]
    assert len(places) == 6
    assert all(place.startswith(str(tmp_path)) for place in places)
