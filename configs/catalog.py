"""The model catalogue: who runs models, what each model can do and costs, and the names that choose between them."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from configs.local_models import VllmOptions

DEFAULT_PATH = Path(__file__).with_name("models.yaml")


class CatalogError(Exception):
    """The catalogue file is missing, is not YAML or says something that cannot be."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackageSource(_Frozen):
    """Weights that came with an installed Python package, which is located and never imported."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    file: Annotated[str, Field(pattern=r"^[^/\\]+$")]


class Sampling(_Frozen):
    """What a request gets when it names no value of its own."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None


Dialect = Literal["openai-chat", "openai-responses", "anthropic", "gemini"]
"""Wire formats a provider may speak."""
Modality = Literal["text", "image", "document", "audio"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]*$", max_length=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class CredentialSource(_Frozen):
    """Where a provider's key is found: exactly one of the two. Keys of organisations are in the database instead."""

    env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    vault: Annotated[str, Field(pattern=r"^[^#\s]+#[^#\s]+$")] | None = None
    """`mount/path#field` of a key-value secret, version 2."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """What the vendor allows this key, so that we stop before it does."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.env) == bool(self.vault):
            raise ValueError("name either env or vault")
        return self


class Timeouts(_Frozen):
    """Seconds. `first_token` runs from the sent request to the first byte of the answer's body."""

    connect: Annotated[float, Field(gt=0, le=60)] = 5.0
    first_token: Annotated[float, Field(gt=0, le=900)] = 60.0
    between_tokens: Annotated[float, Field(gt=0, le=600)] = 60.0
    total: Annotated[float, Field(gt=0, le=3600)] = 600.0


class ProviderEntry(_Frozen):
    """Somebody who runs models: a vendor, any server that speaks a vendor's dialect, or this platform (`local`)."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=50)]
    dialects: Annotated[tuple[Dialect, ...], Field(min_length=1)]
    """Most faithful first: the one a request is translated to when it came in none of them."""
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+[^\s?#/]$")] | None = None
    """Up to and without the dialect's own path (`/chat/completions`, `/v1/messages`)."""
    credentials: tuple[CredentialSource, ...] = ()
    needs_key: bool = True
    embeddings: bool = False
    asks_for_usage: bool = True
    """Whether a Chat Completions stream tells its tokens only when asked to: we then ask, and keep that last chunk."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """By which name a Chat Completions server takes the most it may write."""
    headers: dict[str, str] = Field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    strategy: Literal["round_robin", "least_busy"] = "round_robin"
    """How a provider's keys take turns."""


class TokenPrice(_Frozen):
    """US dollars per million tokens."""

    input: Annotated[float, Field(ge=0)] = 0.0
    output: Annotated[float, Field(ge=0)] = 0.0
    cached_input: Annotated[float, Field(ge=0)] | None = None
    cache_write: Annotated[float, Field(ge=0)] | None = None


class LongPrice(TokenPrice):
    """What a whole request costs whose input is longer than `above` tokens."""

    above: Annotated[int, Field(ge=1)]


class Price(TokenPrice):
    """`gpu_second` is in US dollars per second of GPU time."""

    gpu_second: Annotated[float, Field(ge=0)] = 0.0
    long: LongPrice | None = None


class Fallbacks(_Frozen):
    """Which models answer instead, by what went wrong before the first byte."""

    error: tuple[Name, ...] = ()
    context_length: tuple[Name, ...] = ()
    content_policy: tuple[Name, ...] = ()


class ModelEntry(_Frozen):
    """One model at one provider, and what it can do."""

    id: Name
    provider: str
    name: str | None = None
    """What the provider calls it; by default the id."""
    kind: Literal["chat", "embeddings"] = "chat"
    dialects: tuple[Dialect, ...] = ()
    """When the model speaks fewer than its provider."""
    owner: str
    released: date
    deprecated: date | None = None
    regions: tuple[str, ...] = ()
    context_tokens: Annotated[int, Field(ge=128)]
    max_output_tokens: Annotated[int, Field(ge=0)]
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] = ("text",)
    tools: bool = False
    json_schema: bool = False
    reasoning: bool = False
    price: Price = Price()
    quality: Share = 0.5
    """Classes from 0 to 1, for choosing between models; only their order and distance matter."""
    speed: Share = 0.5
    dimensions: Annotated[int, Field(ge=1)] | None = None
    fallbacks: Fallbacks = Fallbacks()
    # Models we run ourselves:
    engine: Literal["llamacpp", "vllm", "sentence"] | None = None
    source: PackageSource | None = None
    sampling: Sampling = Sampling()
    vllm: VllmOptions | None = None
    adapter_of: Name | None = None
    """A LoRA adapter of this vLLM model; its id is `<that model's id>:<adapter's name>`."""

    @property
    def upstream_name(self) -> str:
        return self.name or self.id

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.max_output_tokens >= self.context_tokens:
            raise ValueError("max_output_tokens must leave room for a prompt in context_tokens")
        if (self.provider == LOCAL) != bool(self.engine):
            raise ValueError("engine belongs to the provider 'local' and is needed there")
        if self.kind == "chat" and self.max_output_tokens == 0:
            raise ValueError("a chat model writes at least one token: max_output_tokens")
        if (self.engine == "vllm") != (bool(self.vllm) != bool(self.adapter_of)):
            raise ValueError("engine vllm needs exactly one of vllm and adapter_of, which no other engine has")
        if self.engine == "vllm":
            # Ray takes what stands behind a colon for the name of an adapter.
            base, colon, _ = self.id.partition(":")
            if (base if colon else None) != self.adapter_of:
                raise ValueError("an adapter's id is <adapter_of>:<name>, and no other vLLM model's has a colon")
        if self.vllm and self.tools and not self.vllm.tool_parser:
            raise ValueError("tools need vllm.tool_parser: how this model writes its calls")
        return self


class Alias(_Frozen):
    """A name that stands for a choice between models, made anew for each request."""

    id: Name
    models: tuple[Name, ...] = ()
    """The candidates; empty: every chat model."""
    needs: tuple[Literal["image", "document", "audio", "tools", "json_schema", "reasoning"], ...] = ()
    strategy: Literal["weighted", "least_busy", "lowest_latency", "lowest_cost", "sticky", "ordered"] = "weighted"
    quality: Share = 0.4
    cost: Share = 0.3
    speed: Share = 0.3
    """Weights of the strategy `weighted`; health always counts."""


LOCAL = "local"


class Catalog(_Frozen):
    """Every provider, model and alias. `auto` must be an alias; `default` is what sessions use that name no model."""

    default: Name
    providers: tuple[ProviderEntry, ...] = ()
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    aliases: tuple[Alias, ...] = ()

    @model_validator(mode="after")
    def _names_are_sound(self) -> Self:
        _once([provider.id for provider in self.providers], "providers")
        names = [model.id for model in self.models] + [alias.id for alias in self.aliases]
        _once(names, "models and aliases")
        known = set(names)
        models = {model.id for model in self.models}
        providers = {provider.id for provider in self.providers}
        for model in self.models:
            if model.provider not in providers:
                raise ValueError(f"{model.id}: no provider {model.provider!r} ({', '.join(sorted(providers))})")
            chains = (*model.fallbacks.error, *model.fallbacks.context_length, *model.fallbacks.content_policy)
            if unknown := set(chains) - models:
                raise ValueError(f"{model.id}: falls back to what is no model: {', '.join(sorted(unknown))}")
        for model in self.models:
            base = self.find(model.adapter_of) if model.adapter_of else None
            if model.adapter_of and not (base and base.vllm and base.vllm.lora):
                raise ValueError(f"{model.id}: {model.adapter_of} is no vLLM model with lora")
        for alias in self.aliases:
            if unknown := set(alias.models) - models:
                raise ValueError(f"alias {alias.id}: no model {', '.join(sorted(unknown))}")
        if self.default not in known:
            raise ValueError(f"default {self.default!r} is none of the models and aliases")
        return self

    def find(self, model_id: str) -> ModelEntry | None:
        return next((model for model in self.models if model.id == model_id), None)

    def alias(self, name: str) -> Alias | None:
        return next((alias for alias in self.aliases if alias.id == name), None)

    def provider(self, provider_id: str) -> ProviderEntry:
        return next(provider for provider in self.providers if provider.id == provider_id)


def _once(names: list[str], what: str) -> None:
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{what} listed twice: {', '.join(sorted(doubled))}")


def load_catalog(path: Path = DEFAULT_PATH) -> Catalog:
    """Read a catalogue file.

    Raises:
        CatalogError: naming the file and every place in it that is wrong.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise CatalogError(f"{path}: cannot be read: {exc}") from exc
    except yaml.YAMLError as exc:
        raise CatalogError(f"{path}: not YAML: {exc}") from exc
    try:
        return Catalog.model_validate(raw)
    except ValidationError as exc:
        lines = [
            f"  {'.'.join(str(part) for part in error['loc']) or 'file'}: {error['msg'].removeprefix('Value error, ')}"
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise CatalogError(f"{path}: bad catalogue\n" + "\n".join(lines)) from exc
