"""`/api/v1/groups`."""

from fastapi import APIRouter, status

from serve_app.api.deps import Cursor, Limit, OwnerDep, ServicesDep, checked_id
from serve_app.api.resources.groups.schemas import GroupIn, GroupOut, GroupsOut, MembersIn
from serve_app.core.domain.ids import GroupId, UserId

router = APIRouter(prefix="/groups", tags=["groups"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def add_group(body: GroupIn, owner: OwnerDep, services: ServicesDep) -> GroupOut:
    return GroupOut.model_validate(await services.gateway.add_group(owner.org_id, body.name))


@router.get("")
async def list_groups(owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None) -> GroupsOut:
    """Oldest first."""
    found = await services.gateway.groups(owner.org_id, limit, _group_id_of(cursor) if cursor else "")
    return GroupsOut(
        items=[GroupOut.model_validate(group) for group in found],
        next_cursor=found[-1].id if len(found) == limit else None,
    )


@router.put("/{group_id}/members")
async def set_members(group_id: str, body: MembersIn, owner: OwnerDep, services: ServicesDep) -> GroupOut:
    """Replace a group's members. Each must be in the organisation."""
    users = [UserId(user) for user in body.user_ids]
    return GroupOut.model_validate(await services.gateway.set_members(owner.org_id, _group_id_of(group_id), users))


@router.delete("/{group_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_group(group_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    """Its limit and its budgets go with it."""
    await services.gateway.delete_group(owner.org_id, _group_id_of(group_id))


def _group_id_of(text: str) -> GroupId:
    return GroupId(checked_id(text, "grp"))
