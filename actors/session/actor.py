"""The Ray shell of an agent host. Ray restarts it when its process dies; the log tells it where to go on."""

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import ray

from actors.handles import NAMESPACE, remove_actor
from actors.session.host import AgentHost
from actors.session.loop import Workshop
from actors.session.model import HttpModel
from configs.settings import Settings
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.creations import SqlCreationRepository
from serve_app.core.db.repositories.outbox import SqlOutboxRepository
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.services.blobs import BlobService
from serve_app.core.services.callers import TicketSigner
from serve_app.core.services.outbox import OutboxRelay
from serve_app.core.services.session_log import SessionLog
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.core.stores.objects.choose import choose_object_store
from serve_app.core.telemetry import configure_logs, configure_traces, get_logger
from serve_app.core.telemetry.ray_metrics import RayMetrics


def actor_name(index: int) -> str:
    return f"agent-host-{index}"


class AgentHostActor:
    """Builds its collaborators and delegates to `AgentHost`. Needs complete settings (database, redis, secret)."""

    def __init__(
        self, index: int, settings: Settings, models_url: str, on_start: tuple[Callable[[], None], ...] = ()
    ) -> None:
        for prepare in on_start:
            prepare()
        configure_logs(settings.telemetry.log_level, "agent-host")
        configure_traces("agent-host", settings.telemetry.otlp_endpoint)
        clock, metrics = SystemClock(), RayMetrics()
        self._database = Database(
            settings.database_url, settings.database.pool_size, settings.database.connect_timeout_s
        )
        self._live = RedisLiveEvents(settings.redis_url)
        self._objects = choose_object_store(settings.s3, settings.data_dir)
        self._model = HttpModel(models_url, TicketSigner(settings.secret_key, clock))
        sessions = SqlSessionRepository(self._database)
        workshop = Workshop(
            sessions=sessions,
            creations=SqlCreationRepository(self._database),
            log=SessionLog(sessions, self._live, metrics),
            blobs=BlobService(self._objects),
            model=self._model,
            clock=clock,
            metrics=metrics,
            max_answer_tokens=settings.session.max_answer_tokens,
        )
        relay = OutboxRelay(SqlOutboxRepository(self._database), self._live, metrics)
        self._host = AgentHost(
            f"{actor_name(index)}/{secrets.token_hex(8)}", settings.session.lease_ttl_s, workshop, relay
        )
        # Ray constructs an async actor inside its event loop.
        self._serving = asyncio.get_running_loop().create_task(self._host.run(), name="agent host")
        self._serving.add_done_callback(_die_unless_stopped)

    async def wake(self, session_id: str, parent: Mapping[str, str]) -> None:
        self._host.wake(session_id, parent)

    async def health(self) -> dict[str, int | str]:
        """`pid` and how many sessions run a turn."""
        return {"pid": os.getpid(), "busy": self._host.busy}

    async def stop(self) -> None:
        """Give every lease back and close what is open."""
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        await self._model.close()
        await self._objects.close()
        await self._live.close()
        await self._database.close()


def _die_unless_stopped(serving: asyncio.Task[None]) -> None:
    if serving.cancelled() or serving.exception() is None:
        return
    get_logger().error("agent host failed", exc_info=serving.exception())
    # A host that claims nothing any more must not look alive: Ray starts a new one.
    os._exit(1)


def start_hosts(settings: Settings, models_url: str, on_start: tuple[Callable[[], None], ...] = ()) -> list[Any]:
    """Start the agent hosts with these settings, in place of any that run; they outlive the process that asks."""
    make: Any = ray.remote
    remote = make(num_cpus=0, max_restarts=-1, max_concurrency=100)(AgentHostActor)
    hosts = []
    for index in range(settings.session.hosts):
        remove_host(index)
        hosts.append(
            remote.options(name=actor_name(index), namespace=NAMESPACE, lifetime="detached").remote(
                index, settings, models_url, on_start
            )
        )
    return hosts


def remove_host(index: int) -> None:
    """End a host if there is one, and wait until its name is free. Its sessions wait in the database."""
    remove_actor(actor_name(index))
