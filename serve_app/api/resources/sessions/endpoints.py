"""`/api/v1/sessions`."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, status
from fastapi.responses import Response

from serve_app.api.deps import CallerDep, IdempotencyKey, Limit, ServicesDep
from serve_app.api.resources.sessions import service
from serve_app.api.resources.sessions.schemas import MessageIn, MessageOut, SessionIn, SessionOut, SessionsOut
from serve_app.api.sse import SseResponse
from serve_app.core.services.requests import bearer_token

router = APIRouter(prefix="/sessions", tags=["sessions"])
MAX_SEQ = 2**63 - 1


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_session(
    body: SessionIn, caller: CallerDep, services: ServicesDep, idempotency_key: IdempotencyKey = None
) -> SessionOut:
    """Open a session."""
    session = await service.create(services, caller, body.title, body.model, idempotency_key)
    return SessionOut.model_validate(session)


@router.get("")
async def list_sessions(
    caller: CallerDep, services: ServicesDep, limit: Limit = 50, cursor: str | None = None
) -> SessionsOut:
    """The organisation's sessions, newest first."""
    before = service.session_id_of(cursor) if cursor else None
    found = await services.sessions.page(caller.org_id, limit, before)
    return SessionsOut(
        items=[SessionOut.model_validate(session) for session in found],
        next_cursor=found[-1].id if len(found) == limit else None,
    )


@router.get("/{session_id}")
async def read_session(session_id: str, caller: CallerDep, services: ServicesDep) -> SessionOut:
    session = await services.sessions.get(caller.org_id, service.session_id_of(session_id))
    return SessionOut.model_validate(session)


@router.post("/{session_id}/messages", status_code=status.HTTP_202_ACCEPTED)
async def post_message(
    session_id: str,
    body: MessageIn,
    caller: CallerDep,
    services: ServicesDep,
    idempotency_key: IdempotencyKey = None,
) -> MessageOut:
    """Say something to the agent. The answer means: it is stored, and will be answered in the events."""
    found, seq = await service.post(services, caller, session_id, body.text, idempotency_key)
    return MessageOut(session_id=found, seq=seq)


@router.get(
    "/{session_id}/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}, "description": "server-sent events"}},
)
async def follow_events(
    request: Request,
    session_id: str,
    caller: CallerDep,
    services: ServicesDep,
    last_event_id: Annotated[int | None, Header(ge=0, le=MAX_SEQ)] = None,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="start behind this `seq`")] = 0,
    follow: Annotated[bool, Query(description="false: end when the log has been read")] = True,
) -> Response:
    """Every event of the session in order, then whatever happens next, for as long as you listen.

    Durable events carry their `seq` as the SSE id. Reconnect with `Last-Event-ID`: each comes exactly once.
    """
    start = after if last_event_id is None else last_event_id
    return SseResponse(
        await service.follow(services, caller, bearer_token(request.scope), session_id, start, forever=follow)
    )
