"""What is checked before a sandbox is made."""

from serve_app.api.deps import Services, checked_id, checked_key
from serve_app.api.resources.sandboxes.schemas import SandboxIn
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import SessionId
from serve_app.core.domain.sandboxes import Sandbox
from serve_app.core.errors import ConflictError


async def create(services: Services, caller: Caller, wanted: SandboxIn, key: str | None) -> Sandbox:
    session_id = SessionId(checked_id(wanted.session_id, "ses")) if wanted.session_id else None
    if session_id:
        await services.sessions.get(caller.org_id, session_id)
    asked = [service.as_service() for service in wanted.services]
    made = await services.sandboxes.create(
        caller, wanted.profile, session_id=session_id, services=asked, idempotency_key=checked_key(key)
    )
    found = services.sandboxes.profiles.find(wanted.profile)
    is_same = (made.session_id, list(made.services)) == (session_id, asked)
    if found is None or made.profile != found.id or not is_same:
        raise ConflictError("This Idempotency-Key was used for another sandbox.")
    return made
