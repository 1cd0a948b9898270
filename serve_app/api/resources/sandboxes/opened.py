"""The sandbox that a path names, as endpoints below it ask for it: its id, and the way into it."""

from typing import Annotated

from fastapi import Depends

from actors.sandbox.door.client import SandboxClient
from serve_app.api.deps import CallerDep, ServicesDep
from serve_app.core.domain.ids import SandboxId, is_id
from serve_app.core.errors import NotFoundError


def sandbox_id_of(text: str) -> SandboxId:
    if not is_id(text, "sbx"):
        raise NotFoundError("There is no such sandbox.")
    return SandboxId(text)


def named(sandbox_id: str) -> SandboxId:
    return sandbox_id_of(sandbox_id)


SandboxIdDep = Annotated[SandboxId, Depends(named)]


async def opened(sandbox_id: SandboxIdDep, caller: CallerDep, services: ServicesDep) -> SandboxClient:
    """Brings it back when it sleeps; that it is used keeps it alive."""
    return await services.sandboxes.client(caller, sandbox_id)


ClientDep = Annotated[SandboxClient, Depends(opened)]
