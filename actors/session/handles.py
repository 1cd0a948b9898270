"""How the API reaches agent hosts: a hint that a message waits, never awaited, never needed."""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import ray

from actors.handles import NAMESPACE
from actors.session.actor import actor_name
from serve_app.core.telemetry import get_logger


class AgentHosts:
    """The hosts of this cluster, `count` of them, woken in turn."""

    def __init__(self, count: int) -> None:
        self._indexes = itertools.cycle(range(count))
        self._handles: dict[int, Any] = {}

    async def wake(self, session_id: str, parent: Mapping[str, str]) -> None:
        index = next(self._indexes)
        try:
            if index not in self._handles:
                self._handles[index] = await asyncio.to_thread(ray.get_actor, actor_name(index), NAMESPACE)
            self._handles[index].wake.remote(session_id, dict(parent))
        except (ValueError, ray.exceptions.RayError) as exc:
            # Not up yet, or between two lives. It will find the message by itself.
            self._handles.pop(index, None)
            get_logger().info("agent host not woken", reason=type(exc).__name__)
