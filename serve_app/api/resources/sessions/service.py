"""What callers may do to sessions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from serve_app.api.deps import Services
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.events import EventType
from serve_app.core.domain.ids import SessionId, is_id
from serve_app.core.domain.sessions import Session
from serve_app.core.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)
from serve_app.core.services.session_log import KeepAlive
from serve_app.core.stores.live.base import LiveFrame
from serve_app.core.telemetry import carrier, get_logger

_MAX_KEY_CHARS = 200
_RECHECK_KEY_S = 15.0


def session_id_of(text: str) -> SessionId:
    if not is_id(text, "ses"):
        raise NotFoundError("There is no such session.")
    return SessionId(text)


async def create(services: Services, caller: Caller, title: str, model: str | None, key: str | None) -> Session:
    model = model or services.default_model
    if model not in services.models:
        raise UnknownModelError(f"There is no model {model!r}. Models: {', '.join(sorted(services.models))}.")
    return await services.sessions.create(caller, title, model, checked_key(key))


async def post(
    services: Services, caller: Caller, session_id: str, text: str, key: str | None
) -> tuple[SessionId, int]:
    """Store the message, then wake a host. When this returns the message is durable and will be answered."""
    found = session_id_of(session_id)
    key = checked_key(key)
    event = await services.log.append(
        caller.org_id,
        found,
        None,
        EventType.MESSAGE_USER,
        {"text": text},
        f"post:{key}" if key else None,
        status="pending",
    )
    if event.data["text"] != text:
        raise ConflictError("This Idempotency-Key was used for another message in this session.")
    await services.hosts.wake(found, carrier())
    assert event.seq is not None  # noqa: S101 - stored events have one
    return found, event.seq


async def follow(
    services: Services, caller: Caller, token: str, session_id: str, after: int, *, forever: bool
) -> AsyncGenerator[LiveFrame | KeepAlive, None]:
    """Checks first, so that a refusal is an answer and not a broken stream."""
    session = await services.sessions.get(caller.org_id, session_id_of(session_id))
    if after > session.last_seq:
        raise InvalidRequestError(f"This session has no event {after}; its newest is {session.last_seq}.")
    if forever:
        return _while_allowed(services, token, services.log.follow(caller.org_id, session.id, after))
    return services.log.read(caller.org_id, session.id, after)


async def _while_allowed(
    services: Services, token: str, items: AsyncGenerator[LiveFrame | KeepAlive, None]
) -> AsyncGenerator[LiveFrame | KeepAlive, None]:
    """Ends the stream once its key is revoked; it is looked at again every `_RECHECK_KEY_S`."""
    check_at = services.clock.monotonic() + _RECHECK_KEY_S
    async with aclosing(items):
        async for item in items:
            if services.clock.monotonic() >= check_at:
                check_at = services.clock.monotonic() + _RECHECK_KEY_S
                try:
                    await services.authenticator.authenticate(token)
                except UnauthenticatedError:
                    return
                except UnavailableError:
                    get_logger().warning("key of an open stream could not be looked up")
            yield item


def checked_key(key: str | None) -> str | None:
    if key is not None and (not key or len(key) > _MAX_KEY_CHARS or not key.isprintable()):
        raise InvalidRequestError(f"Idempotency-Key: 1 to {_MAX_KEY_CHARS} printable characters.")
    return key
