"""Connections to Redis or Valkey, and the client's errors and waits translated once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError

from serve_app.core.errors import MisconfiguredError, UnavailableError

_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 5.0


def connect(url: str) -> Any:
    """A client with a pool of its own; `url` is `redis://`, `rediss://` or `unix://`.

    Any: the client's types are unions over every way of decoding answers.
    """
    # No `socket_timeout`: with it the client writes inside `asyncio.wait_for`, which on Python 3.11 loses a
    # cancellation that comes as the write ends (CPython gh-86296). `answered` bounds the whole call instead.
    return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=_CONNECT_TIMEOUT_S)


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
