"""The Ray Serve shell around the models application, its own ingress at `/v1`."""

import gc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import SecretStr
from ray import serve
from ray.serve._private import replica as serve_replica
from ray.serve._private.common import RequestMetadata, RequestProtocol
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from configs.catalog import Catalog
from configs.settings import Settings
from serve_app.core.domain.ids import new_request_id
from serve_app.core.telemetry import configure_logs, configure_traces
from serve_app.core.telemetry.asgi import AsgiApp, Receive, Scope, Send, TelemetryMiddleware
from serve_app.core.telemetry.ray_metrics import RayMetrics
from serve_app.router.front import Admission, FrontProtocol
from serve_app.router.handles import InferenceHandle, ModelRoute
from serve_app.router.replica import RouterReplica

COMPONENT = "models"
PREFIX = "/v1"


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
        # A call makes hundreds of objects that all end with it, in no cycles: looking through them after every 700 was a
        # twentieth of its time.
        gc.set_threshold(20_000, 20, 10)
        configure_logs(settings.telemetry.log_level, COMPONENT)
        configure_traces(COMPONENT, settings.telemetry.otlp_endpoint)
        metrics = self._metrics = RayMetrics()
        # What it owns begins and ends with the application's lifespan, in the event loop that serves.
        self._replica = RouterReplica(settings, catalog, provider_keys, InferenceHandle(inference, routes), metrics)
        served = self._replica.app
        # Serve puts the request's id into what passes through it, and what does not answers it by itself.
        self._app: AsgiApp = TelemetryMiddleware(served, COMPONENT, metrics, new_request_id, answers_id=False)
        _answer_directly(TelemetryMiddleware(served, COMPONENT, metrics, new_request_id))

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return self._app

    async def __del__(self) -> None:
        await self._replica.close()
        self._metrics.flush()


class _InSlots(Admission):
    """The application itself behind a replica's own HTTP port, in Serve's fast mode, for what is under `/v1`.

    Between the two Serve copies headers, watches for disconnects, makes ids, and keeps metrics and a log of its own, all
    of which the application does as well; that was a third of a call. Its slots are taken all the same, so that load,
    scaling, draining and the bound on running requests stay Serve's. Health checks, and what finds no slot, are answered
    by Serve.
    """

    def __init__(self, replica: Any, application: AsgiApp) -> None:
        self._replica = replica
        self._application = application
        self._metadata = RequestMetadata(
            request_id="direct",
            internal_request_id="direct",
            route=PREFIX,
            is_streaming=True,
            _request_protocol=RequestProtocol.HTTP,
            is_direct_ingress=True,
        )

    def has_room(self) -> bool:
        return not self._replica._semaphore.locked()  # noqa: SLF001 - Ray is pinned to a minor version for such reasons

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What `Replica._start_request` does, without the generator around it.
        slots, measured = self._replica._semaphore, self._replica._metrics_manager  # noqa: SLF001 - the same
        await slots.acquire()
        measured.inc_num_ongoing_requests(self._metadata)
        try:
            await self._application(scope, receive, send)
        finally:
            measured.dec_num_ongoing_requests(self._metadata)
            slots.release()


def _answer_directly(application: AsgiApp) -> None:
    """Before the replica of this process opens its HTTP port. Where it opens none, everything is as Serve has it."""
    start_http = serve_replica.start_asgi_http_server

    async def start(app: Any, options: HTTPOptions, **others: Any) -> Any:
        serving, server = await start_http(app, options, **others)
        # It begins to serve in the loop's next turn, and reads then whom to give connections to.
        server.config.load()
        server.config.http_protocol_class = partial(FrontProtocol, admission=_InSlots(app.__self__, application))
        return serving, server

    serve_replica.start_asgi_http_server = start
