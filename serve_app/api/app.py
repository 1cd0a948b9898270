"""The API as one ASGI app: previews by host name first, then a bounded body, then the routes."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.deps import CALLER_KEY, Services
from serve_app.api.problems import install_problems, problem, unexpected
from serve_app.api.resources.api_keys.endpoints import router as api_keys
from serve_app.api.resources.budgets.endpoints import router as budgets
from serve_app.api.resources.creations.endpoints import router as creations
from serve_app.api.resources.gateway_models.endpoints import aliases, models, providers
from serve_app.api.resources.gateway_policy.endpoints import router as gateway_policy
from serve_app.api.resources.groups.endpoints import router as groups
from serve_app.api.resources.limits.endpoints import router as limits
from serve_app.api.resources.me.endpoints import router as me
from serve_app.api.resources.previews.endpoints import answer as answer_preview
from serve_app.api.resources.provider_keys.endpoints import router as provider_keys
from serve_app.api.resources.request_log.endpoints import router as request_log
from serve_app.api.resources.sessions.endpoints import router as sessions
from serve_app.api.resources.usage.endpoints import router as usage
from serve_app.core.domain.ids import new_request_id
from serve_app.core.errors import AetherError, NotFoundError
from serve_app.core.services.previews import is_preview_host, previewed_creation
from serve_app.core.services.requests import ClientGoneError, bearer_token, header, read_body
from serve_app.core.telemetry import Metrics, get_logger
from serve_app.core.telemetry.asgi import TelemetryMiddleware

_GATEWAY = (models, aliases, providers, provider_keys, limits, budgets, groups, gateway_policy, usage, request_log)
OPENAPI_PATH = "/api/v1/openapi.json"


def build_routes() -> FastAPI:
    """The routes alone, as `openapi.json` describes them."""
    app = FastAPI(
        title="AetherOS",
        version="1",
        description="Sessions with agents, the creations they hand back, and what calls to models may be and cost.",
        openapi_url=OPENAPI_PATH,
        # The usual pages load scripts from elsewhere; this platform works without the internet.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    install_problems(app)
    v1 = APIRouter(prefix="/api/v1")
    for router in (me, api_keys, sessions, creations, *_GATEWAY):
        v1.include_router(router)
    app.include_router(v1)
    return app


def build_app(services: Services, metrics: Metrics, *, answers_id: bool = True) -> ASGIApp:
    """The whole application of one replica. `answers_id` as in `TelemetryMiddleware`."""
    routes = build_routes()
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

    return TelemetryMiddleware(_Edge(routes, services), "api", metrics, new_request_id, answers_id=answers_id)


class _Edge:
    """Decides by host name, bounds the body, and lets no exception out."""

    def __init__(self, routes: ASGIApp, services: Services) -> None:
        self._routes = routes
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._answer(scope, receive, sending)
        except ClientGoneError:
            return
        except AetherError as exc:
            if started:
                get_logger().warning("answer broken off", code=exc.code)
                return
            await problem(exc, scope)(scope, receive, send)
        except Exception as exc:  # noqa: BLE001 - the edge: it is logged, and told as a problem
            response = unexpected(exc, scope)
            # Once begun, an answer can only be broken off: the server closes the connection when we return.
            if not started:
                await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = header(scope, b"host")
        creation_id = previewed_creation(host, self._services.preview_domain)
        if creation_id:
            response = await answer_preview(self._services, creation_id, scope)
            await response(scope, receive, send)
        elif is_preview_host(host, self._services.preview_domain):
            raise NotFoundError("There is no such preview.")
        else:
            if scope["path"].startswith("/api/v1/") and scope["path"] != OPENAPI_PATH:
                # Before anything of the body is held in memory.
                scope[CALLER_KEY] = await self._services.authenticator.authenticate(bearer_token(scope))
            body = await read_body(scope, receive, self._services.max_body_bytes)
            await self._routes(scope, _replay(body, receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body already read, then whatever comes (which can only be the end)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


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
