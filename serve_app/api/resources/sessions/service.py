"""What callers may do to sessions."""

from collections.abc import AsyncGenerator

from serve_app.api.deps import Services, checked_key
from serve_app.api.sse import while_allowed
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.events import EventType
from serve_app.core.domain.ids import SessionId, is_id
from serve_app.core.domain.sessions import Session
from serve_app.core.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    UnknownModelError,
)
from serve_app.core.services.session_log import KeepAlive
from serve_app.core.stores.live.base import LiveFrame
from serve_app.core.telemetry import carrier


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
        items = services.log.follow(caller.org_id, session.id, after)
        return while_allowed(items, token, services.authenticator, services.clock)
    return services.log.read(caller.org_id, session.id, after)
