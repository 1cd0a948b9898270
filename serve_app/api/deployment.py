"""The Ray Serve shell of the API."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve._private import replica as serve_replica
from ray.serve._private.constants import SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER
from ray.serve.config import HTTPOptions
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_door
from actors.sandbox.front import Sandboxes
from actors.sandbox.handles import RayPools
from actors.session.handles import AgentHosts
from configs.catalog import Catalog
from configs.sandboxes import Profiles
from configs.settings import Settings
from serve_app.api.app import build_app
from serve_app.api.deps import Services
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.callers import SqlCallerRepository
from serve_app.core.db.repositories.connectors import SqlConnectorRepository
from serve_app.core.db.repositories.creations import SqlCreationRepository
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.db.repositories.keys import SqlKeyRepository
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.db.repositories.request_log import SqlRequestLogRepository
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.services.blobs import BlobService
from serve_app.core.services.callers import Authenticator, TicketSigner
from serve_app.core.services.sealing import Sealer
from serve_app.core.services.session_log import SessionLog
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.core.stores.objects.choose import choose_object_store
from serve_app.core.telemetry import configure_logs, configure_traces
from serve_app.core.telemetry.ray_metrics import RayMetrics


@serve.deployment(
    name="Api",
    # An SSE client is one ongoing request; Serve's default of 5 would stop the sixth.
    max_ongoing_requests=1000,
    health_check_period_s=2,
    graceful_shutdown_timeout_s=5,
    graceful_shutdown_wait_loop_s=0.5,
    ray_actor_options={"num_cpus": 0},
    logging_config={"enable_access_log": False},
)
@serve.ingress()
class ApiDeployment:
    """Builds its collaborators and delegates to the app. Needs complete settings (database, redis, secret)."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        profiles: Profiles,
        on_start: tuple[Callable[[], None], ...] = (),
    ) -> None:
        for prepare in on_start:
            prepare()
        configure_logs(settings.telemetry.log_level, "api")
        configure_traces("api", settings.telemetry.otlp_endpoint)
        read_no_faster_than_taken()
        clock = SystemClock()
        self._metrics = RayMetrics()
        database = Database(settings.database_url, settings.database.pool_size, settings.database.connect_timeout_s)
        live = RedisLiveEvents(settings.redis_url)
        tickets = TicketSigner(settings.secret_key, clock)
        keys = SqlKeyRepository(database)
        sessions = SqlSessionRepository(database)
        objects = choose_object_store(settings.s3, settings.data_dir)
        sealer = Sealer(settings.sealing_keys)
        rows = SqlSandboxRepository(
            database, settings.sandbox.per_organisation, settings.sandbox.stored_bytes_per_organisation
        )
        self._pools = RayPools(settings, profiles, on_start)
        self._services = Services(
            database=database,
            live=live,
            objects=objects,
            callers=SqlCallerRepository(database),
            keys=keys,
            sessions=sessions,
            creations=SqlCreationRepository(database),
            gateway=SqlGatewayRepository(database),
            ledger=SqlLedgerRepository(database),
            request_log=SqlRequestLogRepository(database),
            log=SessionLog(sessions, live, self._metrics),
            blobs=BlobService(objects),
            authenticator=Authenticator(keys, tickets, clock),
            tickets=tickets,
            sealer=sealer,
            clock=clock,
            hosts=AgentHosts(settings.session.hosts),
            sandboxes=Sandboxes(
                rows,
                self._pools,
                profiles,
                clock,
                dial=lambda door, sandbox_id, node: SandboxClient(dial_door(door, sandbox_id, node), door.token),
            ),
            sandbox_rows=rows,
            connectors=SqlConnectorRepository(database, sealer),
            default_model=settings.session.model,
            models=frozenset(model.id for model in catalog.models),
            catalog=catalog,
            base_url=settings.base_url,
            preview_domain=settings.http.preview_domain,
            preview_link_ttl_s=settings.http.preview_link_ttl_s,
            max_body_bytes=settings.http.max_body_bytes,
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self._services, self._metrics, answers_id=False, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """What watches the cluster and keeps sandboxes alive does so in the event loop that serves."""
        await self._pools.start()
        await self._services.sandboxes.start()
        yield
        await self._services.sandboxes.close()
        await self._pools.close()

    async def __del__(self) -> None:
        await self._services.live.close()
        await self._services.database.close()
        await self._services.objects.close()


_NO_READING_AHEAD = (SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER.encode(), b"?1")


def read_no_faster_than_taken() -> None:
    """Before the replica of this process opens its HTTP port. Where it opens none, everything is as Serve has it.

    To learn when a client leaves, Serve reads ahead of the application and keeps whatever comes: uploads would be held
    in memory whole, and a terminal's input without a bound. The application sees by itself when a client leaves.
    """
    start_http = serve_replica.start_asgi_http_server

    async def start(app: Any, options: HTTPOptions, **others: Any) -> Any:
        async def entered(scope: Scope, receive: Receive, send: Send) -> None:
            # The last one of a name counts, whatever a client sent.
            scope["headers"] = [*scope["headers"], _NO_READING_AHEAD]
            await app(scope, receive, send)

        return await start_http(entered, options, **others)

    serve_replica.start_asgi_http_server = start
