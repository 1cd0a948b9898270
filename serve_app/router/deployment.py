"""The Ray Serve shell around the models application, its own ingress at `/v1`."""

from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from configs.catalog import Catalog
from configs.settings import Settings
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.keys import SqlKeyRepository
from serve_app.core.domain.ids import new_request_id
from serve_app.core.services.callers import Authenticator, TicketSigner
from serve_app.core.telemetry import configure_logs, configure_traces
from serve_app.core.telemetry.asgi import AsgiApp, TelemetryMiddleware
from serve_app.core.telemetry.ray_metrics import RayMetrics
from serve_app.router.app import RouterApp
from serve_app.router.chat import ChatCompletions
from serve_app.router.handles import InferenceHandle
from serve_app.router.models import ModelList
from serve_app.router.providers.local import LocalProvider

COMPONENT = "models"


@serve.deployment(
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=10,
    logging_config=LoggingConfig(enable_access_log=False),
)
@serve.ingress()
class ModelsDeployment:
    """Builds the application in the replica. `on_start` runs first, in the replica's process."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        inference: DeploymentHandle[Any],
        on_start: tuple[Callable[[], None], ...] = (),
    ) -> None:
        for prepare in on_start:
            prepare()
        configure_logs(settings.telemetry.log_level, COMPONENT)
        configure_traces(COMPONENT, settings.telemetry.otlp_endpoint)
        database = settings.database
        self._database = Database(settings.database_url, database.pool_size, database.connect_timeout_s)
        clock = SystemClock()
        tickets = TicketSigner(settings.secret_key, clock)
        app = RouterApp(
            ChatCompletions(catalog, {"local": LocalProvider(InferenceHandle(inference))}),
            ModelList(catalog),
            Authenticator(SqlKeyRepository(self._database), tickets, clock),
            settings.http.max_body_bytes,
            settings.http.preview_domain,
        )
        self._app: AsgiApp = TelemetryMiddleware(app, COMPONENT, RayMetrics(), new_request_id, answers_id=False)

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return self._app

    async def __del__(self) -> None:
        await self._database.close()
