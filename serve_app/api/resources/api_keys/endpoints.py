"""`/api/v1/api-keys`."""

from fastapi import APIRouter, status

from serve_app.api.deps import CallerDep, ServicesDep
from serve_app.api.resources.api_keys import service
from serve_app.api.resources.api_keys.schemas import KeyIn, KeyMadeOut, KeysOut

router = APIRouter(prefix="/api-keys", tags=["api keys"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def make_key(body: KeyIn, caller: CallerDep, services: ServicesDep) -> KeyMadeOut:
    """Make a key. The answer is the only place it is ever shown."""
    record, key = await service.make(services, caller, body.name)
    return KeyMadeOut(record=record, key=key)


@router.get("")
async def list_keys(caller: CallerDep, services: ServicesDep) -> KeysOut:
    """The organisation's keys, revoked ones included, newest first."""
    return KeysOut(items=await service.listing(services, caller))


@router.delete("/{key_id}", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_key(key_id: str, caller: CallerDep, services: ServicesDep) -> None:
    """Revoke a key for good. It stops working within a second; streams it opened end within half a minute."""
    await service.revoke(services, caller, key_id)
