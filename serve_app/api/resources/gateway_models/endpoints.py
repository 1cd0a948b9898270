"""`/api/v1/models`, `/api/v1/model-aliases` and `/api/v1/providers`."""

from fastapi import APIRouter, Path, status

from configs.catalog import Alias, ModelEntry, ProviderEntry
from serve_app.api.deps import Cursor, Limit, OwnerDep, ServicesDep
from serve_app.api.resources.gateway_models import service
from serve_app.api.resources.gateway_models.schemas import AliasesOut, EntriesOut, Entry, ModelsOut, ProvidersOut


def _entries(
    prefix: str,
    kind: type[Entry],
    listed: type[EntriesOut[Entry]],
    name: str,
    names: str,
    *,
    id_as: str,
    about: str = "",
) -> APIRouter:
    """What is the same for every kind of entry: it is listed, read and deleted. `id_as` is how its id stands in a path.

    `name` and `names` make the operations' ids, which clients made from the description know.
    """
    router = APIRouter(prefix=prefix, tags=["models"])
    id_in_path: str = Path(alias=f"{name}_id")

    @router.get("", name=f"list_{names}", description=about or None, response_model=listed)
    async def page(
        owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None
    ) -> EntriesOut[Entry]:
        found = await service.page(services, owner, kind, limit, cursor)
        return listed(items=found.items, unreadable=found.unreadable, next_cursor=found.next_cursor)

    @router.get(id_as, name=f"read_{name}", response_model=kind)
    async def read(owner: OwnerDep, services: ServicesDep, entry_id: str = id_in_path) -> Entry:
        return await service.read(services, owner, kind, entry_id)

    @router.delete(id_as, name=f"delete_{name}", status_code=status.HTTP_204_NO_CONTENT)
    async def delete(owner: OwnerDep, services: ServicesDep, entry_id: str = id_in_path) -> None:
        await service.delete(services, owner, kind, entry_id)

    return router


models = _entries(
    "/models", ModelEntry, ModelsOut, "model", "models", id_as="/{model_id:path}",
    about="What the organisation added itself. `GET /v1/models` lists all that can be called.",
)  # fmt: skip
aliases = _entries("/model-aliases", Alias, AliasesOut, "alias", "aliases", id_as="/{alias_id:path}")
providers = _entries("/providers", ProviderEntry, ProvidersOut, "provider", "providers", id_as="/{provider_id}")


@models.put("/{model_id:path}")
async def put_model(model_id: str, body: ModelEntry, owner: OwnerDep, services: ServicesDep) -> ModelEntry:
    """Add or replace a model. It is called with the organisation's own keys, and can be within seconds."""
    return await service.put_model(services, owner, model_id, body)


@aliases.put("/{alias_id:path}")
async def put_alias(alias_id: str, body: Alias, owner: OwnerDep, services: ServicesDep) -> Alias:
    """Add or replace a name that stands for a choice between models, the platform's and your own."""
    return await service.put_alias(services, owner, alias_id, body)


@providers.put("/{provider_id}")
async def put_provider(provider_id: str, body: ProviderEntry, owner: OwnerDep, services: ServicesDep) -> ProviderEntry:
    """Add or replace a server of models. Its keys are stored at `/api/v1/provider-keys`."""
    return await service.put_provider(services, owner, provider_id, body)
