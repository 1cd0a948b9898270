"""Small catalogues for tests of the choice between models."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from configs.catalog import Catalog, ProviderEntry
from serve_app.core.domain.ids import OrgId
from serve_app.router.keyring import Credential
from serve_app.router.view import Own, View, build_view

ORG = OrgId("org_1")


def model(id_: str, provider: str = "vendor", **more: Any) -> dict[str, Any]:
    return {
        "id": id_, "provider": provider, "owner": "them", "released": "2026-01-01",
        "context_tokens": 8192, "max_output_tokens": 2048, **more,
    }  # fmt: skip


def provider(id_: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "dialects": ["openai-chat"], "base_url": f"https://{id_}.example.org/v1", **more}


def catalog(
    models: Sequence[Mapping[str, Any]],
    aliases: Sequence[Mapping[str, Any]] = ({"id": "auto"},),
    providers: Sequence[Mapping[str, Any]] = (),
) -> Catalog:
    named = {entry["id"] for entry in providers}
    others = sorted({entry["provider"] for entry in models} - named)
    return Catalog.model_validate(
        {
            "default": models[0]["id"],
            "providers": [*providers, *(provider(id_) for id_ in others)],
            "models": list(models),
            "aliases": list(aliases),
        }
    )


def view(
    models: Sequence[Mapping[str, Any]],
    aliases: Sequence[Mapping[str, Any]] = ({"id": "auto"},),
    *,
    without_key: Sequence[str] = (),
    own: Own = Own(),  # noqa: B008 - it is frozen
) -> View:
    """Every provider has one key, `env:<provider>`, but those of `without_key`."""

    def credentials(entry: ProviderEntry, own_only: bool) -> tuple[Credential, ...]:
        if entry.id in without_key:
            return ()
        id_ = f"pky_{entry.id}" if own_only else f"env:{entry.id}"
        return (Credential(id_, entry.id, SecretStr("sk-secret")),)

    return build_view(catalog(models, aliases), ORG, own, credentials)
