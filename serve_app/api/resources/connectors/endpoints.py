"""`/api/v1/connectors`."""

from fastapi import APIRouter, status

from serve_app.api.deps import Cursor, Limit, OwnerDep, ServicesDep, checked_id
from serve_app.api.resources.connectors.schemas import ConnectorIn, ConnectorOut, ConnectorsOut
from serve_app.core.domain.ids import ConnectorId

router = APIRouter(prefix="/connectors", tags=["connectors"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def add_connector(body: ConnectorIn, owner: OwnerDep, services: ServicesDep) -> ConnectorOut:
    """Let the organisation's sandboxes call a service. The secret is never shown again, and never inside a sandbox."""
    return ConnectorOut.of(await services.connectors.add(owner.org_id, body.as_opened()))


@router.get("")
async def list_connectors(
    owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None
) -> ConnectorsOut:
    """Oldest first."""
    after = ConnectorId(checked_id(cursor, "con")) if cursor else None
    found = await services.connectors.page(owner.org_id, limit, after)
    return ConnectorsOut(
        items=[ConnectorOut.of(one) for one in found], next_cursor=found[-1].id if len(found) == limit else None
    )


@router.get("/{connector_id}")
async def read_connector(connector_id: str, owner: OwnerDep, services: ServicesDep) -> ConnectorOut:
    found = await services.connectors.get(owner.org_id, ConnectorId(checked_id(connector_id, "con")))
    return ConnectorOut.of(found)


@router.delete("/{connector_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_connector(connector_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    """With its secret. Sandboxes do without it within seconds."""
    await services.connectors.delete(owner.org_id, ConnectorId(checked_id(connector_id, "con")))
