"""`/api/v1/gateway-policy`."""

from fastapi import APIRouter

from serve_app.api.deps import OwnerDep, ServicesDep
from serve_app.api.resources.gateway_policy.schemas import GatewayPolicy

router = APIRouter(prefix="/gateway-policy", tags=["gateway policy"])


@router.get("")
async def read_policy(owner: OwnerDep, services: ServicesDep) -> GatewayPolicy:
    return GatewayPolicy.model_validate(await services.gateway.habits(owner.org_id))


@router.put("")
async def set_policy(body: GatewayPolicy, owner: OwnerDep, services: ServicesDep) -> GatewayPolicy:
    await services.gateway.set_policy(owner.org_id, cache_ttl_s=body.cache_ttl_s, log_mode=body.log_mode)
    return body
