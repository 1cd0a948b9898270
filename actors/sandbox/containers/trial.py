"""The host's side of a trial: its limits, its folders, and what was found in them."""

import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize

from actors.sandbox.containers.threads import remove_folder
from configs.sandboxes import Limits
from serve_app.core.errors import MisconfiguredError, UnavailableError

_MIB = 1024 * 1024
LIMITS = Limits(
    cpu=0.5, memory=ByteSize(256 * _MIB), disk=ByteSize(16 * _MIB), inodes=4000, processes=32, open_files=64
)
TRIAL_S = 60.0
_MOST_FINDINGS_BYTES, _MOST_COMPILED_BYTES = 64 * 1024, _MIB
_NO_PYTHON, _OLD_PYTHON = (126, 127), 3
_SCRIPT = Path(__file__).with_name("inside_trial.py")
_TAG = re.compile(r"[a-z0-9-]{1,32}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_SCRIPT_FOLDER, _OUT = "/opt/aether/trial", "/run/aether/out"


@dataclass(frozen=True)
class Findings:
    """Of one image. `told` is what `inside_trial` wrote; `memory: killed` when its end was that limit."""

    supervisor: Path
    """The supervisor's folder, with what the image's own Python made of each file. Nobody inside ever wrote in it."""
    told: Mapping[str, object]


class Bench:
    """The folders one trial works in, below `folder`, which does not exist yet."""

    def __init__(self, folder: Path, supervisor: Path) -> None:
        self.folder = folder
        self.out, self.script, self.door = folder / "out", folder / "script", folder / "door"
        self._supervisor = supervisor

    @property
    def binds(self) -> dict[str, Path]:
        """What is seen inside, and where; only `out` is written to."""
        return {_OUT: self.out, _SCRIPT_FOLDER: self.script}

    def command(self, dial: str, memory_bytes: int) -> list[str]:
        """What to run inside, when a program may use `memory_bytes` at most."""
        expected = {
            "dial": dial,
            "inodes": LIMITS.inodes,
            "open_files": LIMITS.open_files,
            "processes": LIMITS.processes,
            "memory_bytes": memory_bytes,
        }
        return ["python3", "-I", "-S", f"{_SCRIPT_FOLDER}/{_SCRIPT.name}", json.dumps(expected)]

    def prepare(self) -> None:
        for each in (self.out, self.script, self.door):
            each.mkdir(parents=True)
            each.chmod(0o755)
        shutil.copyfile(_SCRIPT, self.script / _SCRIPT.name)
        (self.script / _SCRIPT.name).chmod(0o644)
        target = self.out / "supervisor"
        shutil.copytree(self._supervisor, target, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in (target, *(each for each in target.rglob("*") if each.is_dir())):
            (folder / "__pycache__").mkdir()
        for path in (self.out, *self.out.rglob("*")):
            # The container's user is not ours, and must compile here; nobody else reaches below the run folder.
            path.chmod(0o777 if path.is_dir() else 0o644)

    def conclude(self, image: str, exit_code: int) -> Findings:
        """Take what was found, when the trial has ended: bytes, and nothing else the container may have put in its place.

        Raises:
            MisconfiguredError: no sandbox can be started from this image.
            UnavailableError: the trial did not come to its end.
        """
        if exit_code in _NO_PYTHON:
            raise no_python(image)
        if exit_code == _OLD_PYTHON:
            raise MisconfiguredError(f"The Python of image {image} is older than 3.11.")
        told = _findings(self.out)
        if exit_code != 0 and told.get("trying") == "memory":
            told["memory"] = "killed"
        elif exit_code != 0 or not told.get("compiled"):
            trying = f", while trying {told['trying']}" if "trying" in told else ""
            raise UnavailableError(f"The trial of image {image} failed (exit code {exit_code}{trying}).")
        try:
            supervisor = self._take_compiled(str(told.get("tag")))
        except (OSError, ValueError) as exc:
            raise MisconfiguredError(f"The image {image} put something else where it was to compile Python.") from exc
        remove_folder(self.out)
        return Findings(supervisor, told)

    def _take_compiled(self, tag: str) -> Path:
        if not _TAG.fullmatch(tag):
            raise ValueError("no Python calls itself so")
        target = self.folder / "supervisor"
        shutil.copytree(self._supervisor, target, ignore=shutil.ignore_patterns("__pycache__"))
        for source in list(target.rglob("*.py")):
            cache = source.parent / "__pycache__"
            cache.mkdir(exist_ok=True)
            compiled = cache / f"{source.stem}.{tag}.pyc"
            inside = ("supervisor", *compiled.relative_to(target).parts)
            compiled.write_bytes(_bytes_of(self.out, *inside, most=_MOST_COMPILED_BYTES))
        for path in (target, *target.rglob("*")):
            # The container's user is not ours.
            path.chmod(0o755 if path.is_dir() else 0o644)
        return target

    def remove(self) -> None:
        remove_folder(self.folder)


def no_python(image: str) -> MisconfiguredError:
    return MisconfiguredError(f"The image {image} has no python3 on its PATH: sandboxes need Python 3.11 or newer.")


def _findings(folder: Path) -> dict[str, object]:
    try:
        found = json.loads(_bytes_of(folder, "findings.json", most=_MOST_FINDINGS_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes_of(folder: Path, *parts: str, most: int) -> bytes:
    """Of a plain file somewhere below `folder`. A container wrote there: no link is followed, no pipe waited for."""
    with ExitStack() as opened:
        at = os.open(folder, _FOLDER)
        opened.callback(os.close, at)
        for part in parts[:-1]:
            at = os.open(part, _FOLDER, dir_fd=at)
            opened.callback(os.close, at)
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
        with os.fdopen(descriptor, "rb") as file:
            found = file.read(most + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    if found is None or len(found) > most:
        raise ValueError(f"{parts[-1]} is no plain file of at most {most} bytes")
    return found
