"""The Ray Serve shell around the models application, its own ingress at `/v1`."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import SecretStr
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from configs.catalog import Catalog
from configs.settings import Settings
from serve_app.core.domain.ids import new_request_id
from serve_app.core.telemetry import configure_logs, configure_traces
from serve_app.core.telemetry.asgi import AsgiApp, TelemetryMiddleware
from serve_app.core.telemetry.ray_metrics import RayMetrics
from serve_app.router.handles import InferenceHandle, ModelRoute
from serve_app.router.replica import RouterReplica

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
        provider_keys: Mapping[str, SecretStr],
        inference: DeploymentHandle[Any],
        routes: Mapping[str, ModelRoute],
        on_start: tuple[Callable[[], None], ...] = (),
    ) -> None:
        for prepare in on_start:
            prepare()
        configure_logs(settings.telemetry.log_level, COMPONENT)
        configure_traces(COMPONENT, settings.telemetry.otlp_endpoint)
        metrics = RayMetrics()
        # What it owns begins and ends with the application's lifespan, in the event loop that serves.
        self._replica = RouterReplica(settings, catalog, provider_keys, InferenceHandle(inference, routes), metrics)
        self._app: AsgiApp = TelemetryMiddleware(
            self._replica.app, COMPONENT, metrics, new_request_id, answers_id=False
        )

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return self._app

    async def __del__(self) -> None:
        await self._replica.close()
