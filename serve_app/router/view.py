"""An organisation's catalogue: the platform's, what it added, and which of it can be used now."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from configs.catalog import LOCAL, Alias, Catalog, Modality, ModelEntry, ProviderEntry, TokenPrice
from configs.catalog import Price as ListedPrice
from serve_app.core.domain.ids import OrgId
from serve_app.core.domain.spending import NANOS_PER_DOLLAR, Price, model_key
from serve_app.router.keyring import Credential

CredentialsOf = Callable[[ProviderEntry, bool], tuple[Credential, ...]]
"""(provider, own_only) → its keys for this organisation; `Keyring.credentials` with the rest bound."""
Entry = TypeVar("Entry", bound=BaseModel)
NO_KEY = "no key"
"""Why a model cannot be used: `Reason.text`."""


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """One model ready to be called. `key` names it in `Loads`: the model id, with the organisation before its own."""

    key: str
    model: ModelEntry
    provider: ProviderEntry
    credentials: tuple[Credential, ...]
    """Empty: no key, so it is not offered."""
    price: Price
    modalities: frozenset[Modality]
    is_own: bool = False
    """The organisation added the model."""
    is_own_provider: bool = False
    """The organisation added the provider too: its address is not to be trusted."""
    long_price: Price | None = None
    """For requests whose input is longer than the catalogue's `long.above`."""

    def price_for(self, input_tokens: int) -> Price:
        """Some vendors charge a long request more, all of it."""
        long = self.model.price.long
        return self.long_price if long and self.long_price and input_tokens > long.above else self.price

    def resting(self, cooling: Mapping[str, float]) -> dict[str, float]:
        """Its keys that cool down, for all models or for this one, and the seconds left. `cooling` is `Reservation`'s."""
        if not cooling:
            return {}
        name = self.model.upstream_name
        found = {
            key.id: max(cooling.get(key.id, 0.0), cooling.get(model_key(key.id, name), 0.0)) for key in self.credentials
        }
        return {key: left for key, left in found.items() if left > 0}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a model was taken or passed over."""

    model: str
    is_taken: bool
    text: str


@dataclass(frozen=True, slots=True)
class Pool:
    """Whom an alias chooses from: those that can be used, and why the others cannot."""

    usable: tuple[Candidate, ...]
    without: tuple[Reason, ...]


@dataclass(frozen=True)
class Own:
    """What an organisation added to the catalogue; `bad` tells which stored entries no longer make sense."""

    providers: tuple[ProviderEntry, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    aliases: tuple[Alias, ...] = ()
    bad: tuple[str, ...] = ()


def read_own(
    providers: Iterable[Mapping[str, Any]], models: Iterable[Mapping[str, Any]], aliases: Iterable[Mapping[str, Any]]
) -> Own:
    """Stored catalogue entries. Never raises: one that is not sound is left out, so that it takes no other with it."""
    bad: list[str] = []
    read_models = [model for model in _read(ModelEntry, models, bad) if _may_be_own(model, bad)]
    return Own(
        tuple(_read(ProviderEntry, providers, bad)), tuple(read_models), tuple(_read(Alias, aliases, bad)), tuple(bad)
    )


def _read(kind: type[Entry], rows: Iterable[Mapping[str, Any]], bad: list[str]) -> list[Entry]:
    entries = []
    for row in rows:
        try:
            entries.append(kind.model_validate(row))
        except ValidationError as exc:
            places = {".".join(map(str, error["loc"])) or "entry" for error in exc.errors(include_url=False)}
            bad.append(f"{kind.__name__} {str(row.get('id'))[:100]!r}: {', '.join(sorted(places))}")
    return entries


def _may_be_own(model: ModelEntry, bad: list[str]) -> bool:
    if model.provider == LOCAL:
        bad.append(f"ModelEntry {model.id!r}: models this platform runs are added by its operator")
        return False
    return True


class View:
    """Built once per policy snapshot; lookups are dictionary reads."""

    def __init__(
        self,
        default: str,
        candidates: Mapping[str, Candidate],
        aliases: Mapping[str, Alias],
        *,
        today: date = date.min,
        bad: tuple[str, ...] = (),
    ) -> None:
        self.default = default
        self.candidates = candidates
        self.aliases = aliases
        self.bad = bad
        """What of the organisation's own was left out, and why."""
        open_to_all = [c for c in candidates.values() if c.model.deprecated is None or c.model.deprecated > today]
        named = {name: [candidates[m] for m in alias.models if m in candidates] for name, alias in aliases.items()}
        self._pools = {name: _pool(found if aliases[name].models else open_to_all) for name, found in named.items()}

    def pool(self, alias: str) -> Pool:
        """Its models; for an alias that names none, every model that is not deprecated."""
        return self._pools[alias]

    def usable(self) -> list[Candidate]:
        """What `GET /v1/models` lists."""
        return [candidate for candidate in self.candidates.values() if candidate.credentials]


def _pool(candidates: list[Candidate]) -> Pool:
    return Pool(
        tuple(candidate for candidate in candidates if candidate.credentials),
        tuple(Reason(candidate.model.id, False, NO_KEY) for candidate in candidates if not candidate.credentials),
    )


def build_view(catalog: Catalog, org_id: OrgId, own: Own, credentials: CredentialsOf, today: date = date.min) -> View:
    """The catalogue of one organisation; what it added hides what has the same name here.

    An organisation's model is called with its own keys only, also at a provider of ours: it set the price itself, and
    so could spend our money unseen. It cannot put itself in the place of one of our providers, for then our keys would
    go to its address.
    """
    providers = {provider.id: provider for provider in catalog.providers}
    own_providers = {provider.id: provider for provider in own.providers if provider.id not in providers}
    bad = [f"provider {p.id!r}: the name is taken by the platform's" for p in own.providers if p.id in providers]
    keys = {id_: credentials(provider, False) for id_, provider in providers.items()}
    candidates = {
        model.id: _candidate(model.id, model, providers[model.provider], keys[model.provider])
        for model in catalog.models
    }
    for model in own.models:
        provider = providers.get(model.provider) or own_providers.get(model.provider)
        if provider is None:
            bad.append(f"model {model.id!r}: no provider {model.provider!r}")
            continue
        candidates[model.id] = _candidate(
            f"{org_id}/{model.id}",
            model,
            provider,
            credentials(provider, True),
            is_own=True,
            is_own_provider=provider.id in own_providers,
        )
    aliases = {alias.id: alias for alias in (*catalog.aliases, *own.aliases)}
    own_aliases = {alias.id for alias in own.aliases}
    for model in own.models:
        if model.id not in own_aliases:
            aliases.pop(model.id, None)
    return View(catalog.default, candidates, aliases, today=today, bad=(*own.bad, *bad))


def _candidate(
    key: str,
    model: ModelEntry,
    provider: ProviderEntry,
    credentials: tuple[Credential, ...],
    *,
    is_own: bool = False,
    is_own_provider: bool = False,
) -> Candidate:
    return Candidate(
        key,
        model,
        provider,
        credentials,
        exact_price(model.price),
        frozenset(model.modalities),
        is_own,
        is_own_provider,
        exact_price(model.price.long) if model.price.long else None,
    )


_PER_THOUSAND = NANOS_PER_DOLLAR // 1_000


def exact_price(price: TokenPrice) -> Price:
    """Dollars per million tokens as whole nano-dollars per thousand; without a price of its own, a cached token costs
    what a fresh one does."""
    cached = price.input if price.cached_input is None else price.cached_input
    written = price.input if price.cache_write is None else price.cache_write
    return Price(
        input=round(price.input * _PER_THOUSAND),
        output=round(price.output * _PER_THOUSAND),
        cached_input=round(cached * _PER_THOUSAND),
        cache_write=round(written * _PER_THOUSAND),
        gpu_second=round(price.gpu_second * NANOS_PER_DOLLAR) if isinstance(price, ListedPrice) else 0,
    )
