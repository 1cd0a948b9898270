"""The model catalogue: which models this platform answers for, what each can do, where its weights are."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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


class ModelEntry(_Frozen):
    """One model and what it can do."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._:-]*$", max_length=100)]
    provider: Literal["local"]
    engine: Literal["llamacpp"]
    owner: str
    released: date
    source: PackageSource
    context_tokens: Annotated[int, Field(ge=256)]
    max_output_tokens: Annotated[int, Field(ge=1)]
    modalities: Annotated[tuple[Literal["text"], ...], Field(min_length=1)]
    tools: bool
    json_schema: bool
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _output_fits(self) -> Self:
        if self.max_output_tokens >= self.context_tokens:
            raise ValueError("max_output_tokens must leave room for a prompt in context_tokens")
        return self


class Catalog(_Frozen):
    """Every model, by id. `default` is the one the alias "auto" stands for."""

    default: str
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_are_sound(self) -> Self:
        ids = [model.id for model in self.models]
        if doubled := {name for name in ids if ids.count(name) > 1}:
            raise ValueError(f"listed twice: {', '.join(sorted(doubled))}")
        if self.default not in ids:
            raise ValueError(f"default {self.default!r} is none of the models ({', '.join(ids)})")
        if "auto" in ids:
            raise ValueError("'auto' is the alias of the default and cannot be a model's id")
        return self

    def find(self, model_id: str) -> ModelEntry | None:
        return next((model for model in self.models if model.id == model_id), None)


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
