"""Connections to Redis or Valkey, and the client's errors and waits translated once."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError

from serve_app.core.errors import MisconfiguredError, UnavailableError

_P = TypeVar("_P", bound=asyncio.Protocol)
_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 5.0


def connect(url: str) -> Any:
    """A client with a pool of its own; `url` is `redis://`, `rediss://` or `unix://`.

    Any: the client's types are unions over every way of decoding answers.
    """
    # No `socket_timeout`: with it the client writes inside `asyncio.wait_for`, which on Python 3.11 loses a
    # cancellation that comes as the write ends (CPython gh-86296). `answered` bounds the whole call instead.
    return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=_CONNECT_TIMEOUT_S)


async def attach(url: str, make: Callable[[], _P]) -> _P:
    """A connection for a protocol of the caller's, without a login; `greeting` says how to. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = dict(parse_url(url))
    connection_class = options.pop("connection_class", None)
    if connection_class is UnixDomainSocketConnection:
        return (await loop.create_unix_connection(make, options["path"]))[1]
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    if connection_class is not SSLConnection:
        return (await loop.create_connection(make, host, port))[1]
    # Reading the certificates that are trusted takes tens of milliseconds.
    tls: ssl.SSLContext = await asyncio.to_thread(SSLConnection(**options).ssl_context.get)
    return (await loop.create_connection(make, host, port, ssl=tls, server_hostname=host))[1]


def greeting(url: str) -> list[tuple[str, ...]]:
    """The commands that log in and choose the database that `url` names."""
    options: dict[str, Any] = dict(parse_url(url))
    commands: list[tuple[str, ...]] = []
    if password := options.get("password"):
        user = options.get("username")
        commands.append(("AUTH", user, password) if user else ("AUTH", password))
    if database := options.get("db"):
        commands.append(("SELECT", str(database)))
    return commands


@asynccontextmanager
async def answered(timeout_s: float = _TIMEOUT_S) -> AsyncIterator[None]:
    """Every call to the server stands in such a block.

    Raises:
        UnavailableError: the server cannot be reached, or did not answer in time.
        MisconfiguredError: it refuses the login.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except (RedisError, OSError) as exc:
        if _is_refusal(exc):
            raise MisconfiguredError("The Redis server refuses the login; see AETHER_REDIS_URL.") from exc
        raise UnavailableError("The Redis server cannot be reached right now.") from exc


def is_unknown_script(exc: BaseException) -> bool:
    """Whether the server has to be told a script first: it is another process than the one that knew it."""
    return isinstance(exc, NoScriptError)


def _is_refusal(exc: BaseException | None) -> bool:
    """The client tells a refused login as a connection error that was caused by it."""
    while exc is not None:
        if isinstance(exc, AuthenticationError | NoPermissionError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False
