"""Who may make and revoke keys: owners all of the organisation's, members none yet."""

from serve_app.api.deps import Services
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import KeyId, is_id
from serve_app.core.domain.keys import KeyRecord
from serve_app.core.errors import ForbiddenError, NotFoundError
from serve_app.core.services.callers import make_key


async def make(services: Services, caller: Caller, name: str) -> tuple[KeyRecord, str]:
    """The record, and the key itself."""
    _must_be_owner(caller)
    key = make_key()
    return await services.keys.add(caller, name, key), key.text


async def listing(services: Services, caller: Caller) -> list[KeyRecord]:
    _must_be_owner(caller)
    return await services.keys.all(caller.org_id)


async def revoke(services: Services, caller: Caller, key_id: str) -> None:
    _must_be_owner(caller)
    if not is_id(key_id, "key"):
        raise NotFoundError("There is no such API key.")
    await services.keys.revoke(caller.org_id, KeyId(key_id))


def _must_be_owner(caller: Caller) -> None:
    if caller.role != "owner":
        raise ForbiddenError("Only an owner of the organisation manages its API keys.")
