"""Keeps a Serve replica's own ports on loopback, where Ray 2.60 binds one of them to every interface.

A replica's gRPC port between deployments is hard-wired to `[::]:0`, whatever address the node has, and its HTTP
port follows the address of the public proxy. On one machine both are only for processes beside them. Runs in each
replica before these ports are opened; `aether doctor` and a test look at what really listens.
"""

from typing import Any

from ray.serve._private import replica
from ray.serve.config import HTTPOptions


def keep_to_loopback() -> None:
    """Narrow what the replica of this process is about to open. Idempotent."""
    if getattr(replica, "_kept_to_loopback", False):
        return
    bind_grpc, start_http = replica.add_port_to_grpc_server, replica.start_asgi_http_server

    def bind_grpc_here(server: Any, address: str) -> int:
        return int(bind_grpc(server, address.replace("[::]", "127.0.0.1")))

    async def start_http_here(app: Any, options: HTTPOptions, **others: Any) -> Any:
        return await start_http(app, options.model_copy(update={"host": "127.0.0.1"}), **others)

    replica.add_port_to_grpc_server = bind_grpc_here
    replica.start_asgi_http_server = start_http_here
    replica._kept_to_loopback = True  # noqa: SLF001 - our own mark on their module
