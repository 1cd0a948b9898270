"""The shipped catalogue is sound, and a bad one says where it is bad."""

from pathlib import Path

import pytest

from configs.catalog import LOCAL, Catalog, CatalogError, load_catalog

GOOD = """
default: one
providers:
  - {id: local, dialects: [openai-chat], needs_key: false}
  - {id: vendor, dialects: [anthropic], base_url: "https://api.example.org", credentials: [{env: VENDOR_KEY}]}
models:
  - {id: one, provider: local, engine: llamacpp, owner: us, released: 2024-01-01,
     source: {package: weights, file: a.gguf}, context_tokens: 1024, max_output_tokens: 128,
     modalities: [text], tools: false, json_schema: true}
  - {id: two, provider: vendor, owner: them, released: 2024-01-01, context_tokens: 2048, max_output_tokens: 512,
     price: {input: 3, output: 15}, fallbacks: {error: [one]}}
aliases:
  - {id: auto, models: [two, one]}
"""


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return load_catalog()


def test_the_shipped_catalogue(shipped: Catalog) -> None:
    model = shipped.find(shipped.default)
    assert model is not None
    assert model.id == "smollm2-135m"
    assert shipped.find("nothing") is None
    assert {"auto", "fast", "cheap", "reasoning", "vision"} <= {alias.id for alias in shipped.aliases}


def test_every_shipped_provider_can_be_reached_and_runs_a_model(shipped: Catalog) -> None:
    used = {model.provider for model in shipped.models}
    for provider in shipped.providers:
        assert provider.id in used
        if provider.id != LOCAL:
            assert (provider.base_url or "").startswith("https://")
            assert provider.credentials
    embedders = {model.provider for model in shipped.models if model.kind == "embeddings"}
    assert embedders <= {provider.id for provider in shipped.providers if provider.embeddings}


def test_every_shipped_model_of_a_vendor_has_a_price_that_can_be(shipped: Catalog) -> None:
    for model in shipped.models:
        price = model.price
        if model.provider != LOCAL:
            assert price.input > 0
            assert model.kind == "embeddings" or price.output >= price.input
            assert price.cached_input is None or price.cached_input < price.input
            assert price.cache_write is None or price.cache_write > price.input
        assert model.kind == "chat" or model.dimensions


def test_shipped_fallbacks_can_do_what_the_model_can(shipped: Catalog) -> None:
    """A model that stands in must take the same requests, or it would be passed over for most of them."""
    for model in shipped.models:
        for name in (*model.fallbacks.error, *model.fallbacks.content_policy):
            other = shipped.find(name)
            assert other is not None
            assert other.id != model.id
            assert other.tools >= model.tools, (model.id, name)
            assert other.reasoning >= model.reasoning, (model.id, name)
        for name in model.fallbacks.context_length:
            other = shipped.find(name)
            assert other is not None
            assert other.context_tokens > model.context_tokens


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("default: one", "default: three", ["default 'three' is none of the models"]),
        ("context_tokens: 1024", "context_tokens: many", ["models.0.context_tokens"]),
        ("max_output_tokens: 128", "max_output_tokens: 1024", ["models.0", "leave room for a prompt"]),
        ("engine: llamacpp", "engine: magic", ["models.0.engine"]),
        ("tools: false", "tulz: false", ["models.0.tulz"]),
        ("file: a.gguf", "file: ../a.gguf", ["models.0.source.file"]),
        ("id: one", "id: auto", ["listed twice: auto"]),
        ("id: two", "id: one", ["listed twice: one"]),
        ("provider: vendor", "provider: seller", ["two: no provider 'seller'"]),
        ("provider: vendor,", "provider: local,", ["models.1", "engine belongs"]),
        ("error: [one]", "error: [auto]", ["two: falls back to what is no model: auto"]),
        ("models: [two, one]", "models: [two, none]", ["alias auto: no model none"]),
        ("env: VENDOR_KEY", "env: VENDOR_KEY, vault: 'kv/a#b'", ["providers.1.credentials.0", "either env or vault"]),
        ("https://api.example.org", "https://api.example.org/", ["providers.1.base_url"]),
        ("input: 3", "input: -3", ["models.1.price.input"]),
        ("default: one", "default: [", ["not YAML"]),
    ],
)
def test_a_bad_catalogue_names_the_file_and_the_place(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(GOOD)
    assert load_catalog(path).default == "one"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(CatalogError) as caught:
        load_catalog(path)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_a_missing_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        load_catalog(tmp_path / "none.yaml")
