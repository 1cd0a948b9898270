"""`/api/v1/me`."""

from fastapi import APIRouter

from serve_app.api.deps import CallerDep, ServicesDep
from serve_app.api.resources.me.schemas import MeOut, OrganisationOut, UserOut

router = APIRouter(prefix="/me", tags=["me"])


@router.get("")
async def read_me(caller: CallerDep, services: ServicesDep) -> MeOut:
    """The organisation, user and role the key acts for."""
    names = await services.callers.names(caller)
    return MeOut(
        organisation=OrganisationOut(id=caller.org_id, name=names.organisation),
        user=UserOut(id=caller.user_id, email=names.email),
        role=caller.role,
    )
