"""An organisation's own entries: sound by themselves, and fitting to the platform's and to one another."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

from pydantic import BaseModel, ValidationError

from configs.catalog import Alias, ModelEntry, ProviderEntry
from serve_app.api.deps import Services
from serve_app.api.problems import invalid_field
from serve_app.api.resources.gateway_models.schemas import (
    Entry,
    Problem,
    problems_of_any,
    problems_of_model,
    problems_of_provider,
)
from serve_app.core.db.repositories.gateway import EntryKind
from serve_app.core.domain.callers import Caller
from serve_app.core.errors import ConflictError, CorruptedError, NotFoundError

_KINDS: dict[type[BaseModel], EntryKind] = {ModelEntry: "model", Alias: "alias", ProviderEntry: "provider"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,99}")


@dataclass(frozen=True)
class Page(Generic[Entry]):
    """`unreadable` names stored entries that are none any more."""

    items: list[Entry]
    unreadable: list[str]
    next_cursor: str | None


async def page(services: Services, caller: Caller, kind: type[Entry], limit: int, cursor: str | None) -> Page[Entry]:
    after = _name_of(cursor) if cursor else ""
    stored = await services.gateway.entries(caller.org_id, _KINDS[kind], limit, after)
    items, unreadable = [], []
    for one in stored:
        try:
            items.append(kind.model_validate(one))
        except ValidationError:
            unreadable.append(str(one["id"]))
    return Page(items, unreadable, str(stored[-1]["id"]) if len(stored) == limit else None)


async def read(services: Services, caller: Caller, kind: type[Entry], entry_id: str) -> Entry:
    """Raises `NotFoundError`."""
    stored = await services.gateway.entry(caller.org_id, _KINDS[kind], _name_of(entry_id))
    if stored is None:
        raise _no_such(kind)
    try:
        return kind.model_validate(stored)
    except ValidationError as exc:
        raise CorruptedError("This version cannot read the stored entry: replace or delete it.") from exc


async def put_model(services: Services, caller: Caller, entry_id: str, model: ModelEntry) -> ModelEntry:
    _must_be_sound(entry_id, model, problems_of_model(model))
    own = await _own(services, caller)
    _must_be_free(model.id, _platform_names(services), own["alias"])
    provider = _provider_of(services, own, model.provider)
    if provider is None:
        raise invalid_field("provider", f"there is no provider {model.provider!r}")
    if unspoken := set(model.dialects) - set(provider.dialects):
        raise invalid_field("dialects", f"{provider.id} does not speak {', '.join(sorted(unspoken))}")
    known = _models(services, own) | {model.id}
    for reason, chain in model.fallbacks:
        _must_be_models(f"fallbacks.{reason}", chain, known)
    return await _put(services, caller, model)


async def put_alias(services: Services, caller: Caller, entry_id: str, alias: Alias) -> Alias:
    _must_be_sound(entry_id, alias)
    own = await _own(services, caller)
    _must_be_free(alias.id, _platform_names(services), own["model"])
    _must_be_models("models", alias.models, _models(services, own))
    return await _put(services, caller, alias)


async def put_provider(services: Services, caller: Caller, entry_id: str, provider: ProviderEntry) -> ProviderEntry:
    _must_be_sound(entry_id, provider, problems_of_provider(provider))
    _must_be_free(provider.id, {entry.id for entry in services.catalog.providers})
    before = await services.gateway.entry(caller.org_id, "provider", provider.id)
    if before is not None and before.get("base_url") != provider.base_url:
        # Whoever stored a key gave it for one address; nobody shall have it sent to another.
        await _must_have_no_keys(services, caller, provider.id)
    return await _put(services, caller, provider)


async def delete(services: Services, caller: Caller, kind: type[Entry], entry_id: str) -> None:
    """Raises `ConflictError` while other entries or keys need it."""
    name = _name_of(entry_id)
    own = await _own(services, caller)
    if name not in own[_KINDS[kind]]:
        raise _no_such(kind)
    if users := sorted(_users(own, _KINDS[kind], name)):
        raise ConflictError(f"Still used by {', '.join(users[:10])}.")
    if kind is ProviderEntry:
        await _must_have_no_keys(services, caller, name)
    await services.gateway.delete_entry(caller.org_id, _KINDS[kind], name)


_Own = dict[EntryKind, dict[str, dict[str, Any]]]


async def _own(services: Services, caller: Caller) -> _Own:
    """Stored entries by kind and id, as they are: one that cannot be read still has its name."""
    return {
        kind: {str(entry["id"]): entry for entry in await services.gateway.entries(caller.org_id, kind)}
        for kind in _KINDS.values()
    }


async def _put(services: Services, caller: Caller, entry: Entry) -> Entry:
    stored = entry.model_dump(mode="json", exclude_unset=True)
    await services.gateway.put_entry(caller.org_id, _KINDS[type(entry)], stored)
    return entry


def _must_be_sound(entry_id: str, entry: Entry, more: Iterable[Problem] = ()) -> None:
    if entry.id != entry_id:
        raise invalid_field("id", f"differs from {entry_id[:100]!r} in the address")
    if found := [*problems_of_any(entry), *more]:
        raise invalid_field(*found[0])


def _must_be_free(name: str, *taken: Iterable[str]) -> None:
    if any(name in names for names in taken):
        raise ConflictError(f"The name {name!r} is taken.")


def _must_be_models(field: str, names: Iterable[str], known: set[str]) -> None:
    if unknown := sorted(set(names) - known):
        raise invalid_field(field, f"there is no model {', '.join(unknown[:10])}")


async def _must_have_no_keys(services: Services, caller: Caller, provider: str) -> None:
    if await services.gateway.has_provider_key(caller.org_id, provider):
        raise ConflictError("Keys are stored for this provider and its address: disable them first.")


def _platform_names(services: Services) -> set[str]:
    return {model.id for model in services.catalog.models} | {alias.id for alias in services.catalog.aliases}


def _models(services: Services, own: _Own) -> set[str]:
    return {model.id for model in services.catalog.models} | own["model"].keys()


def _provider_of(services: Services, own: _Own, provider_id: str) -> ProviderEntry | None:
    platforms = next((entry for entry in services.catalog.providers if entry.id == provider_id), None)
    if platforms or provider_id not in own["provider"]:
        return platforms
    try:
        return ProviderEntry.model_validate(own["provider"][provider_id])
    except ValidationError:
        return None


def _users(own: _Own, kind: EntryKind, name: str) -> Iterator[str]:
    """Entries that name this one."""
    for model_id, model in own["model"].items():
        fallbacks: dict[str, list[str]] = model.get("fallbacks") or {}
        is_named = any(name in chain for chain in fallbacks.values()) and model_id != name
        if (kind == "provider" and model.get("provider") == name) or (kind == "model" and is_named):
            yield f"model {model_id}"
    if kind == "model":
        yield from (f"alias {alias_id}" for alias_id, alias in own["alias"].items() if name in alias.get("models", ()))


def _name_of(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise NotFoundError("There is no such entry in this organisation's catalogue.")
    return text


def _no_such(kind: type[BaseModel]) -> NotFoundError:
    return NotFoundError(f"This organisation has added no such {_KINDS[kind]}.")
