"""The shipped catalogue is sound, and a bad one says where it is bad."""

from pathlib import Path

import pytest

from configs.catalog import CatalogError, load_catalog

GOOD = """
default: one
models:
  - {id: one, provider: local, engine: llamacpp, owner: us, released: 2024-01-01,
     source: {package: weights, file: a.gguf}, context_tokens: 1024, max_output_tokens: 128,
     modalities: [text], tools: false, json_schema: true}
"""


def test_the_shipped_catalogue() -> None:
    catalog = load_catalog()
    model = catalog.find(catalog.default)
    assert model is not None
    assert model.id == "smollm2-135m"
    assert catalog.find("nothing") is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("default: one", "default: two", ["default 'two' is none of the models"]),
        ("context_tokens: 1024", "context_tokens: many", ["models.0.context_tokens"]),
        ("max_output_tokens: 128", "max_output_tokens: 1024", ["models.0", "leave room for a prompt"]),
        ("engine: llamacpp", "engine: magic", ["models.0.engine"]),
        ("tools: false", "tulz: false", ["models.0.tools", "models.0.tulz"]),
        ("file: a.gguf", "file: ../a.gguf", ["models.0.source.file"]),
        ("id: one", "id: auto", ["default 'one' is none"]),
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
