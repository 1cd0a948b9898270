"""Finding a model's weights on this machine."""

from importlib.util import find_spec
from pathlib import Path

from configs.catalog import PackageSource
from serve_app.core.errors import EngineError


def locate(source: PackageSource) -> Path:
    """The file's path. The package is not imported: its code may want dependencies nobody installed.

    Raises:
        EngineError: the package or the file is missing.
    """
    spec = find_spec(source.package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / source.file
        if path.is_file():
            return path
    raise EngineError(f"The weights {source.file} are missing: install the Python package {source.package}.")
