"""`/api/v1/provider-keys`."""

from fastapi import APIRouter, status

from serve_app.api.deps import Cursor, Limit, OwnerDep, ServicesDep, checked_id
from serve_app.api.resources.provider_keys import service
from serve_app.api.resources.provider_keys.schemas import ProviderKeyIn, ProviderKeyOut, ProviderKeysOut
from serve_app.core.domain.ids import ProviderKeyId

router = APIRouter(prefix="/provider-keys", tags=["provider keys"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def add_provider_key(body: ProviderKeyIn, owner: OwnerDep, services: ServicesDep) -> ProviderKeyOut:
    """Store a key your calls to a provider are made with. It is never shown again, to anybody."""
    return ProviderKeyOut.model_validate(await service.add(services, owner, body))


@router.get("")
async def list_provider_keys(
    owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None
) -> ProviderKeysOut:
    """The organisation's, disabled ones included, oldest first."""
    after = checked_id(cursor, "pky") if cursor else ""
    found = await services.gateway.provider_keys(owner.org_id, limit, after)
    return ProviderKeysOut(
        items=[ProviderKeyOut.model_validate(key) for key in found],
        next_cursor=found[-1].id if len(found) == limit else None,
    )


@router.delete("/{key_id}", status_code=status.HTTP_204_NO_CONTENT)
async def disable_provider_key(key_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    """Disable a key for good: what was sealed is erased. New calls do without it within seconds."""
    await services.gateway.disable_provider_key(owner.org_id, ProviderKeyId(checked_id(key_id, "pky")))
