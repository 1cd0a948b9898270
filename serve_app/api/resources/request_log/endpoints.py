"""`/api/v1/request-log`."""

from typing import Annotated

from fastapi import APIRouter, Query

from serve_app.api.deps import Cursor, OwnerDep, ServicesDep, checked_id
from serve_app.api.resources.request_log.schemas import LoggedRequestOut, RequestLogOut

router = APIRouter(prefix="/request-log", tags=["request log"])


@router.get("")
async def read_log(
    owner: OwnerDep,
    services: ServicesDep,
    # Fewer than elsewhere: each may hold a whole conversation.
    limit: Annotated[int, Query(ge=1, le=50, description="how many at most")] = 20,
    cursor: Cursor = None,
) -> RequestLogOut:
    """Newest first. Empty unless the gateway policy says that requests are logged."""
    found = await services.request_log.page(owner.org_id, limit, checked_id(cursor, "led") if cursor else None)
    return RequestLogOut(
        items=[LoggedRequestOut.model_validate(row) for row in found],
        next_cursor=found[-1]["id"] if len(found) == limit else None,
    )
