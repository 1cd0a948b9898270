"""Named actors that outlive whoever started them: the namespace they share, and how one is ended."""

import time

import ray

from serve_app.core.telemetry import get_logger

NAMESPACE = "aether"


def remove_actor(name: str, *, stop_s: float = 10.0) -> None:
    """End an actor of ours if there is one: let it `stop` by itself, then wait until its name is free."""
    try:
        actor = ray.get_actor(name, NAMESPACE)
    except ValueError:
        return
    try:
        ray.get(actor.stop.remote(), timeout=stop_s)
    except ray.exceptions.RayError as exc:
        get_logger().warning("actor did not stop by itself", actor=name, reason=type(exc).__name__)
    ray.kill(actor)
    for _ in range(100):
        try:
            ray.get_actor(name, NAMESPACE)
        except ValueError:
            return
        time.sleep(0.05)
