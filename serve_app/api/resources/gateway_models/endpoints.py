"""`/api/v1/models`, `/api/v1/model-aliases` and `/api/v1/providers`."""

from fastapi import APIRouter, status

from configs.catalog import Alias, ModelEntry, ProviderEntry
from serve_app.api.deps import Cursor, Limit, OwnerDep, ServicesDep
from serve_app.api.resources.gateway_models import service
from serve_app.api.resources.gateway_models.schemas import AliasesOut, ModelsOut, ProvidersOut

models = APIRouter(prefix="/models", tags=["models"])
aliases = APIRouter(prefix="/model-aliases", tags=["models"])
providers = APIRouter(prefix="/providers", tags=["models"])


@models.get("")
async def list_models(owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None) -> ModelsOut:
    """What the organisation added itself. `GET /v1/models` lists all that can be called."""
    found = await service.page(services, owner, ModelEntry, limit, cursor)
    return ModelsOut(items=found.items, unreadable=found.unreadable, next_cursor=found.next_cursor)


@models.get("/{model_id:path}")
async def read_model(model_id: str, owner: OwnerDep, services: ServicesDep) -> ModelEntry:
    return await service.read(services, owner, ModelEntry, model_id)


@models.put("/{model_id:path}")
async def put_model(model_id: str, body: ModelEntry, owner: OwnerDep, services: ServicesDep) -> ModelEntry:
    """Add or replace a model. It is called with the organisation's own keys, and can be within seconds."""
    return await service.put_model(services, owner, model_id, body)


@models.delete("/{model_id:path}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_model(model_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    await service.delete(services, owner, ModelEntry, model_id)


@aliases.get("")
async def list_aliases(owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None) -> AliasesOut:
    found = await service.page(services, owner, Alias, limit, cursor)
    return AliasesOut(items=found.items, unreadable=found.unreadable, next_cursor=found.next_cursor)


@aliases.get("/{alias_id:path}")
async def read_alias(alias_id: str, owner: OwnerDep, services: ServicesDep) -> Alias:
    return await service.read(services, owner, Alias, alias_id)


@aliases.put("/{alias_id:path}")
async def put_alias(alias_id: str, body: Alias, owner: OwnerDep, services: ServicesDep) -> Alias:
    """Add or replace a name that stands for a choice between models, the platform's and your own."""
    return await service.put_alias(services, owner, alias_id, body)


@aliases.delete("/{alias_id:path}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_alias(alias_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    await service.delete(services, owner, Alias, alias_id)


@providers.get("")
async def list_providers(
    owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None
) -> ProvidersOut:
    found = await service.page(services, owner, ProviderEntry, limit, cursor)
    return ProvidersOut(items=found.items, unreadable=found.unreadable, next_cursor=found.next_cursor)


@providers.get("/{provider_id}")
async def read_provider(provider_id: str, owner: OwnerDep, services: ServicesDep) -> ProviderEntry:
    return await service.read(services, owner, ProviderEntry, provider_id)


@providers.put("/{provider_id}")
async def put_provider(provider_id: str, body: ProviderEntry, owner: OwnerDep, services: ServicesDep) -> ProviderEntry:
    """Add or replace a server of models. Its keys are stored at `/api/v1/provider-keys`."""
    return await service.put_provider(services, owner, provider_id, body)


@providers.delete("/{provider_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_provider(provider_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    await service.delete(services, owner, ProviderEntry, provider_id)
