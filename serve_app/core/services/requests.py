"""Reading an HTTP request at any edge: a bounded body and a bearer credential, straight from ASGI."""

import asyncio
from typing import Any

from serve_app.core.errors import BodyTooLargeError, SlowBodyError, UnauthenticatedError
from serve_app.core.telemetry.asgi import Receive, Scope


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete; there is nobody to answer."""


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a header, `name` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def read_body(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float = 60.0) -> bytes:
    """The whole body, refused before it is held in memory when it is larger than `max_bytes`.

    Raises:
        BodyTooLargeError: as soon as the declared or the received size passes the limit.
        SlowBodyError: when it is not complete within `timeout_s`.
        ClientGoneError: when the client leaves first.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(scope, receive, max_bytes)
    except TimeoutError as exc:
        raise SlowBodyError(f"The body did not arrive within {timeout_s:.0f} seconds.") from exc


def bounded_body(
    scope: Scope, receive: Receive, max_bytes: int, *, stall_s: float = 60.0, timeout_s: float = 3600.0
) -> Receive:
    """A `receive` for a body that is passed on as it comes, and never held whole. It raises what `read_body` raises.

    `stall_s` is how long each piece may take, `timeout_s` all of them.
    """
    must_fit(scope, max_bytes)
    deadline = asyncio.get_running_loop().time() + timeout_s
    size = 0
    is_complete = False

    async def take() -> Any:
        nonlocal size, is_complete
        if is_complete:
            return await receive()
        try:
            async with asyncio.timeout(min(stall_s, deadline - asyncio.get_running_loop().time())):
                message: Any = await receive()
        except TimeoutError as exc:
            raise SlowBodyError("The body did not go on arriving.") from exc
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise too_large(max_bytes)
        is_complete = not message.get("more_body", False)
        return message

    return take


async def _read(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    must_fit(scope, max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def must_fit(scope: Scope, max_bytes: int) -> None:
    """Raises `BodyTooLargeError` when the declared size passes the limit."""
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > max_bytes:
        raise too_large(max_bytes)


def too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {max_bytes} bytes.", max_bytes=max_bytes)


def bearer_token(scope: Scope) -> str:
    """The token of `Authorization: Bearer …`.

    Raises:
        UnauthenticatedError: when there is none.
    """
    value = header(scope, b"authorization")
    scheme, _, token = (value or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthenticatedError("Send an API key as 'Authorization: Bearer <key>'.")
    return token.strip()
