"""Finding a model's weights on this machine."""

from importlib.util import find_spec
from pathlib import Path

from configs.catalog import PackageSource
from serve_app.core.errors import EngineError


def locate(source: PackageSource | None) -> Path:
    """The file's path, in the package or a folder of it. The package is not imported: its code may want dependencies
    nobody installed.

    Raises:
        EngineError: the package or the file is missing.
    """
    if source is None:
        raise EngineError("The catalogue does not say where this model's weights are: add its source.")
    spec = find_spec(source.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob(source.file)):
            return path
    raise EngineError(f"The weights {source.file} are missing: install the Python package {source.package}.")
