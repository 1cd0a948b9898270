"""Layers: folders with chosen Python packages of the platform's own environment, and all that these need."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serve_app.core.errors import MisconfiguredError

_MOST_FILES = 200_000
_ASKED_FOR = ".packages"


def closure(packages: Iterable[str]) -> list[Distribution]:
    """The packages and what they need, transitively, by name.

    Raises:
        MisconfiguredError: one of `packages` is not installed.
    """
    found: dict[str, Distribution] = {}
    wanted = [(str(canonicalize_name(name)), True) for name in packages]
    while wanted:
        name, is_asked_for = wanted.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError as exc:
            if not is_asked_for:
                continue
            raise MisconfiguredError(
                f"A sandbox profile shows the Python package {name}, which is not installed beside the platform."
                f" Install it there, or take it out of the profile's packages.",
                package=name,
            ) from exc
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append((str(canonicalize_name(requirement.name)), False))
    return [found[name] for name in sorted(found)]


class Layers:
    """Keeps layers in one folder, each made once and named by what is in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, packages: Collection[str]) -> Path:
        """The folder of a layer. Files are the environment's own, linked where they can be."""
        parts = closure(packages)
        target = self._folder / _name_of(parts)
        if target.is_dir():
            return target
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        making = Path(tempfile.mkdtemp(prefix="making-", dir=self._folder))
        try:
            making.chmod(0o755)
            for part in parts:
                _add(part, making)
            target.with_suffix(_ASKED_FOR).write_text("\n".join(sorted(packages)))
            making.rename(target)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        return target

    def forget_old(self) -> None:
        """Remove layers of versions that are installed no more, and what was never finished. While none is in use."""
        for path in list(self._folder.glob("*")):
            if path.is_dir() and not _is_current(path):
                shutil.rmtree(path, ignore_errors=True)
                for beside in self._folder.glob(f"{path.name}.*"):
                    beside.unlink(missing_ok=True)


def _name_of(parts: Iterable[Distribution]) -> str:
    versions = "\n".join(f"{part.metadata['Name']} {part.version} {part.locate_file('')}" for part in parts)
    return hashlib.sha256(versions.encode()).hexdigest()[:16]


def _is_current(layer: Path) -> bool:
    try:
        return _name_of(closure(layer.with_suffix(_ASKED_FOR).read_text().split())) == layer.name
    except (OSError, MisconfiguredError):
        return False


def _add(part: Distribution, layer: Path) -> None:
    files = part.files or []
    if len(files) > _MOST_FILES:
        raise MisconfiguredError(f"The Python package {part.metadata['Name']} has too many files for a sandbox.")
    made: set[Path] = {layer}
    for file in files:
        # Programs and data beside the packages' folder are left out.
        if ".." in file.parts or file.is_absolute():
            continue
        source, target = Path(str(part.locate_file(file))), layer / file
        if not source.is_file() or target.exists():
            continue
        for folder in reversed(target.parents):
            if folder not in made and folder.is_relative_to(layer):
                _make_folder(folder)
                made.add(folder)
        _link(source, target)
        # What the environment has compiled need not be compiled again; installers do not list it.
        compiled = Path(cache_from_source(str(source))) if file.suffix == ".py" else source
        beside = target.parent / "__pycache__" / compiled.name
        if compiled != source and compiled.is_file() and not beside.exists():
            _make_folder(beside.parent)
            _link(compiled, beside)


def _make_folder(folder: Path) -> None:
    """For everybody to read, whatever this process's own habit (umask) is."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)


def _link(source: Path, target: Path) -> None:
    """A second name costs nothing, but shares the file's permissions: where others may not read it, copy it."""
    if source.stat().st_mode & 0o004:
        try:
            os.link(source, target, follow_symlinks=True)
        except OSError:
            pass  # Another file system, or one without links.
        else:
            return
    shutil.copy2(source, target)
    target.chmod(0o644)
