"""`http://<creation>.<preview domain>/`: reached by host name, before the application's own routes."""

import re
from http.cookies import SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Scope

from serve_app.api.deps import Services
from serve_app.api.resources.previews import service
from serve_app.core.domain.ids import CreationId
from serve_app.core.errors import AetherError, MethodNotAllowedError, NotFoundError, UnauthenticatedError
from serve_app.core.services.previews import preview_purpose
from serve_app.core.services.requests import header

_COOKIE = "aether_preview"
_VERSION = re.compile(r"/v/([1-9][0-9]{0,8})(/source)?")


async def answer(services: Services, creation_id: CreationId, scope: Scope) -> Response:
    """Everything under one preview's host name. A link's ticket is traded for a cookie of this host alone."""
    try:
        if scope["method"] not in {"GET", "HEAD"}:
            raise MethodNotAllowedError("This page can only be read.")
        purpose = preview_purpose(creation_id)
        if given := parse_qs(scope["query_string"].decode("latin-1")).get("access"):
            services.tickets.read(given[0], purpose)
            return _with_cookie(services, scope["path"], given[0])
        caller = services.tickets.read(_cookie(scope), purpose)
        match = _VERSION.fullmatch(scope["path"])
        if match is None and scope["path"] != "/":
            raise NotFoundError("There is nothing here. The newest version is at /.")
        number = int(match[1]) if match else None
        if match and match[2]:
            version = await services.creations.version(caller.org_id, creation_id, number)
            return PlainTextResponse(await service.source(services, caller, version), headers=service.HEADERS)
        return HTMLResponse(await service.page(services, caller, creation_id, number), headers=service.HEADERS)
    except UnauthenticatedError as exc:
        message = "This link does not open the page any more. Ask for a new one where you found it."
        return HTMLResponse(
            service.message_page("Link expired or not valid", message), exc.status, headers=service.HEADERS
        )
    except AetherError as exc:
        return HTMLResponse(service.message_page("Not here", exc.message), exc.status, headers=service.HEADERS)


def _with_cookie(services: Services, path: str, ticket: str) -> Response:
    # One leading slash: `//host` would be another site's address.
    response = RedirectResponse("/" + path.lstrip("/"), status_code=303, headers={"referrer-policy": "no-referrer"})
    response.set_cookie(
        _COOKIE,
        ticket,
        max_age=services.preview_link_ttl_s,
        httponly=True,
        samesite="lax",
        secure=services.base_url.startswith("https://"),
    )
    return response


def _cookie(scope: Scope) -> str:
    cookie = SimpleCookie()
    cookie.load(header(scope, b"cookie") or "")
    found = cookie.get(_COOKIE)
    return found.value if found else ""
