"""`/api/v1/usage`."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from serve_app.api.deps import CallerDep, Cursor, Limit, ServicesDep, checked_id
from serve_app.api.resources.usage import service
from serve_app.api.resources.usage.schemas import EntriesOut, EntryOut, UsageOut, UsageSumOut
from serve_app.core.db.repositories.ledger import Grouping

router = APIRouter(prefix="/usage", tags=["usage"])
Since = Annotated[datetime | None, Query(alias="from", description="default: thirty days before `to`")]
Until = Annotated[datetime | None, Query(alias="to", description="not included; default: now")]


@router.get("")
async def read_usage(
    caller: CallerDep, services: ServicesDep, group_by: Grouping = "day", since: Since = None, until: Until = None
) -> UsageOut:
    """What calls to models add up to: days in their order, all else the dearest first, at most 1,000.

    Members see their own calls.
    """
    begin, end = service.span(services, since, until)
    found = await services.ledger.sums(caller.org_id, group_by, begin, end, service.visible_to(caller))
    return UsageOut(since=begin, until=end, items=[UsageSumOut.of(one) for one in found])


@router.get("/entries")
async def list_entries(
    caller: CallerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None
) -> EntriesOut:
    """The ledger, call by call, newest first. Members see their own calls."""
    before = checked_id(cursor, "led") if cursor else None
    found = await services.ledger.page(caller.org_id, limit, before, service.visible_to(caller))
    return EntriesOut(
        items=[EntryOut.of(entry) for entry in found],
        next_cursor=found[-1].id if len(found) == limit else None,
    )
