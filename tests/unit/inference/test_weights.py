"""Weights are found without importing what carries them."""

import sys

import pytest

from configs.catalog import PackageSource, load_catalog
from serve_app.core.errors import EngineError
from serve_app.inference.weights import locate


def test_the_shipped_weights_are_found() -> None:
    source = load_catalog().models[0].source
    assert source is not None
    assert locate(source).stat().st_size > 50_000_000
    assert source.package not in sys.modules


@pytest.mark.parametrize("source", [("no_such_package", "a.gguf"), ("orjson", "a.gguf")])
def test_missing_weights_say_what_to_install(source: tuple[str, str]) -> None:
    with pytest.raises(EngineError, match=f"install the Python package {source[0]}"):
        locate(PackageSource(package=source[0], file=source[1]))
