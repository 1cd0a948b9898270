"""The host's side of a trial: its limits, its folders, and what was found in them."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize

from configs.sandboxes import Limits
from serve_app.core.errors import MisconfiguredError, UnavailableError

_MIB = 1024 * 1024
LIMITS = Limits(
    cpu=0.5, memory=ByteSize(256 * _MIB), disk=ByteSize(16 * _MIB), inodes=4000, processes=32, open_files=64
)
TRIAL_S = 60.0
_MOST_FINDINGS_BYTES = 64 * 1024
_NO_PYTHON, _OLD_PYTHON = (126, 127), 3
_SCRIPT = Path(__file__).with_name("inside_trial.py")
_SCRIPT_FOLDER, _OUT = "/opt/aether/trial", "/run/aether/out"


@dataclass(frozen=True)
class Findings:
    """Of one image. `told` is what `inside_trial` wrote; `memory: killed` when its end was that limit."""

    supervisor: Path
    """The supervisor's folder, compiled by the image's own Python."""
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
        """Read what was found, when the trial has ended, and take away the right to write.

        Raises:
            MisconfiguredError: no sandbox can be started from this image.
            UnavailableError: the trial did not come to its end.
        """
        if exit_code in _NO_PYTHON:
            raise no_python(image)
        if exit_code == _OLD_PYTHON:
            raise MisconfiguredError(f"The Python of image {image} is older than 3.11.")
        told = _read(self.out / "findings.json")
        if exit_code != 0 and told.get("trying") == "memory":
            told["memory"] = "killed"
        elif exit_code != 0 or not told.get("compiled"):
            trying = f", while trying {told['trying']}" if "trying" in told else ""
            raise UnavailableError(f"The trial of image {image} failed (exit code {exit_code}{trying}).")
        compiled = self.out / "supervisor"
        for path in (compiled, *compiled.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        return Findings(compiled, told)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def no_python(image: str) -> MisconfiguredError:
    return MisconfiguredError(f"The image {image} has no python3 on its PATH: sandboxes need Python 3.11 or newer.")


def _read(path: Path) -> dict[str, object]:
    try:
        # Written in the container: whatever is no plain file is not waited for, and no link is followed.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = json.loads(file.read(_MOST_FINDINGS_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
