"""The API as one ASGI app: its routes, behind its edge."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp

from serve_app.api.deps import Services
from serve_app.api.edge import OPENAPI_PATH, Edge
from serve_app.api.problems import install_problems
from serve_app.api.resources.api_keys.endpoints import router as api_keys
from serve_app.api.resources.budgets.endpoints import router as budgets
from serve_app.api.resources.connectors.endpoints import router as connectors
from serve_app.api.resources.creations.endpoints import router as creations
from serve_app.api.resources.gateway_models.endpoints import aliases, models, providers
from serve_app.api.resources.gateway_policy.endpoints import router as gateway_policy
from serve_app.api.resources.groups.endpoints import router as groups
from serve_app.api.resources.limits.endpoints import router as limits
from serve_app.api.resources.me.endpoints import router as me
from serve_app.api.resources.provider_keys.endpoints import router as provider_keys
from serve_app.api.resources.request_log.endpoints import router as request_log
from serve_app.api.resources.sandboxes.endpoints import profiles as sandbox_profiles
from serve_app.api.resources.sandboxes.endpoints import router as sandboxes
from serve_app.api.resources.sessions.endpoints import router as sessions
from serve_app.api.resources.usage.endpoints import router as usage
from serve_app.core.domain.ids import new_request_id
from serve_app.core.errors import AetherError
from serve_app.core.telemetry import Metrics
from serve_app.core.telemetry.asgi import TelemetryMiddleware

_GATEWAY = (models, aliases, providers, provider_keys, limits, budgets, groups, gateway_policy, usage, request_log)
_SANDBOXES = (sandboxes, sandbox_profiles, connectors)


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
"""What a replica starts and closes with its application, in the event loop that serves."""


def build_routes(lifespan: Lifespan | None = None) -> FastAPI:
    """The routes alone, as `openapi.json` describes them."""
    app = FastAPI(
        title="AetherOS",
        version="1",
        description="Sessions with agents, the creations they hand back, sandboxes for untrusted code, and what calls to "
        "models may be and cost.",
        lifespan=lifespan,
        openapi_url=OPENAPI_PATH,
        # The usual pages load scripts from elsewhere; this platform works without the internet.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    install_problems(app)
    v1 = APIRouter(prefix="/api/v1")
    for router in (me, api_keys, sessions, creations, *_SANDBOXES, *_GATEWAY):
        v1.include_router(router)
    app.include_router(v1)
    return app


def build_app(
    services: Services, metrics: Metrics, *, answers_id: bool = True, lifespan: Lifespan | None = None
) -> ASGIApp:
    """The whole application of one replica. `answers_id` as in `TelemetryMiddleware`."""
    routes = build_routes(lifespan)
    routes.state.services = services

    @routes.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        """This replica answers."""
        return JSONResponse({"status": "ok"})

    @routes.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        """This replica reaches what it stands on."""
        checks = {
            "database": await _state(services.database.ping),
            "live_events": await _state(services.live.ping),
            "objects": await _state(services.objects.check),
        }
        is_ready = all(state == "ok" for state in checks.values())
        return JSONResponse({"status": "ok" if is_ready else "unavailable", **checks}, 200 if is_ready else 503)

    @routes.get("/", include_in_schema=False)
    async def front_page() -> HTMLResponse:
        return HTMLResponse(_FRONT_PAGE, headers={"content-security-policy": "default-src 'none'"})

    return TelemetryMiddleware(Edge(routes, services), "api", metrics, new_request_id, answers_id=answers_id)


async def _state(ping: Callable[[], Awaitable[None]]) -> str:
    try:
        await ping()
    except AetherError as exc:
        return exc.code
    return "ok"


_FRONT_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>AetherOS</title>
<h1>AetherOS is running</h1>
<p>The API is under <code>/api/v1</code>, models under <code>/v1</code> (OpenAI's dialect).
Its description: <a href="/api/v1/openapi.json">/api/v1/openapi.json</a>.</p>
<p>From a terminal: <code>aether create "A short guide to growing tomatoes"</code></p></html>"""
