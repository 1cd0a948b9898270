"""The edge of the API: previews by host name first, then who is asking, then a bounded body; no exception gets out."""

import re
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.deps import CALLER_KEY, CREDENTIAL_KEY, Services
from serve_app.api.problems import problem, refuse, unexpected
from serve_app.api.resources.previews.endpoints import answer as answer_preview
from serve_app.core.domain.ids import new_request_id
from serve_app.core.errors import AetherError, ForbiddenError, NotFoundError, UnauthenticatedError
from serve_app.core.services.previews import is_preview_host, previewed_creation
from serve_app.core.services.requests import ClientGoneError, bearer_token, bounded_body, header, read_body
from serve_app.core.telemetry import get_logger
from serve_app.core.telemetry.asgi import REQUEST_ID_KEY

OPENAPI_PATH = "/api/v1/openapi.json"
_API = "/api/v1/"
_UPLOAD = re.compile(r"/api/v1/sandboxes/[^/]+/(files|archive)")
_BEARER = "bearer."
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Edge:
    """Every request and every WebSocket passes it. Lifespan messages go straight to the routes."""

    def __init__(self, routes: ASGIApp, services: Services) -> None:
        self._routes = routes
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:
                await self._routes(scope, receive, send)

    # --- requests ---

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            if scope["path"].startswith(_API) and scope["path"] != OPENAPI_PATH:
                # Before anything of the body is held in memory.
                await self._admit(scope, bearer_token(scope))
            if scope["method"] == "PUT" and _UPLOAD.fullmatch(scope["path"]):
                await self._routes(scope, bounded_body(scope, receive, self._services.max_upload_bytes), send)
                return
            body = await read_body(scope, receive, self._services.max_body_bytes)
            await self._routes(scope, _replay(body, receive), send)

    async def _admit(self, scope: Scope, token: str) -> None:
        scope[CALLER_KEY] = await self._services.authenticator.authenticate(token)
        scope[CREDENTIAL_KEY] = token

    # --- WebSockets ---

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[REQUEST_ID_KEY] = new_request_id()
        try:
            if not scope["path"].startswith(_API) or is_preview_host(
                header(scope, b"host"), self._services.preview_domain
            ):
                raise NotFoundError("There is no WebSocket here.")
            origin = header(scope, b"origin")
            if origin is not None and not is_own_origin(origin, self._services.base_url):
                raise ForbiddenError("WebSockets are for pages of this platform's own origin, and for programs.")
            await self._admit(scope, _shown(scope))
        except AetherError as exc:
            await refuse(exc, scope, receive, send)
            return
        began = self._services.clock.monotonic()
        try:
            await self._routes(scope, receive, send)
        except ClientGoneError:
            return
        except Exception:  # noqa: BLE001 - the edge: it is logged, and the server ends the connection
            get_logger().exception("websocket failed", path=scope["path"])
            with suppress(RuntimeError):  # it may be closed already
                await send({"type": "websocket.close", "code": 1011, "reason": "internal"})
        finally:
            open_s = round(self._services.clock.monotonic() - began, 3)
            get_logger().info("websocket", path=scope["path"], open_s=open_s, request_id=scope[REQUEST_ID_KEY])


def is_own_origin(origin: str, base_url: str) -> bool:
    """Whether a page of this origin is the platform's own. Its names on one machine are one."""
    page, own = urlsplit(origin), urlsplit(base_url)
    try:
        has_same_place = (page.scheme, page.port) == (own.scheme, own.port)
    except ValueError:
        return False
    is_same_host = page.hostname == own.hostname or {page.hostname, own.hostname} <= _LOOPBACK
    return has_same_place and is_same_host and page.hostname is not None


def _shown(scope: Scope) -> str:
    """A page cannot set headers on a WebSocket: there the key comes as a subprotocol, which is never in a log or URL."""
    for offered in scope["subprotocols"]:
        if offered.startswith(_BEARER):
            return str(offered[len(_BEARER) :])
    try:
        return bearer_token(scope)
    except UnauthenticatedError:
        raise UnauthenticatedError(
            "Send an API key as 'Authorization: Bearer <key>', or as the subprotocol 'bearer.<key>'."
        ) from None


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
