"""Ray's own sandboxes, as far as their API goes, and where it ends: what a door to the inside needs beside it.

The API runs a command to its end with nothing on standard input, and shares no socket with a sandbox. So a supervisor
is started by the command the API itself would start, with a socket as its input; that knows the insides of one version
of Ray, which is pinned.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.experimental.sandbox.backend import gvisor
from ray.experimental.sandbox.exceptions import SandboxError
from ray.experimental.sandbox.runtime import SandboxRuntime

from serve_app.core.errors import UnavailableError
from serve_app.core.telemetry import get_logger

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ANSWER_S = 30
_MOST_WORDS = 2000


class RayRuntime:
    """Every call blocks."""

    def __init__(self) -> None:
        self._runtime = SandboxRuntime()

    def create(
        self,
        image: str,
        cpu: float,
        memory_bytes: int,
        env: dict[str, str],
        change: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        is_rootless: bool,
        timeout_s: float,
    ) -> str:
        """Start one from an image's name, or from the archive of its files, and return its name."""
        with _translated():
            return str(
                self._runtime.create(
                    image=image,
                    cpu=cpu,
                    memory=memory_bytes,
                    env={"PATH": _PATH, **env},
                    network="none",
                    rootless=is_rootless,
                    capabilities=[],
                    readonly=True,
                    timeout_seconds=timeout_s,
                    _oci_spec_transform_fn=change,
                )
            )

    def run(self, name: str, command: Sequence[str], user: str, timeout_s: float) -> int:
        """Run a program to its end; its exit code."""
        with _translated():
            return int(self._runtime.exec(name, list(command), timeout=timeout_s, user=user).exit_code)

    def command(self, name: str, *arguments: str) -> list[str]:
        """A command of gVisor's about this sandbox; `{name}` among the arguments stands for it."""
        config = self._runtime.backend._get_metadata_or_raise(name)["config"]  # noqa: SLF001 - the module's docstring
        base = self._runtime.backend._runsc_base_args(config)  # noqa: SLF001 - the same
        return [*map(str, base), *(name if each == "{name}" else each for each in arguments)]

    def pid(self, name: str) -> int:
        """gVisor's kernel's process on this machine."""
        return int(json.loads(self.order(name, "state", "{name}"))["pid"])

    def order(self, name: str, *arguments: str) -> str:
        """Have gVisor do something with it, as in `command`; what it printed."""
        with _translated():
            done = subprocess.run(
                self.command(name, *arguments), capture_output=True, text=True, timeout=_ANSWER_S, check=False
            )
            if done.returncode != 0:
                raise _failed(done.stderr)
            return done.stdout

    def delete(self, name: str) -> None:
        """With everything it runs. One that is not there is not missed."""
        with _translated():
            self._runtime.delete(name)

    def specifications(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and specification of every sandbox on this machine, whoever started it."""
        for path in Path(gvisor._RAY_SANDBOX_DIR).glob("*/config.json"):  # noqa: SLF001 - the module's docstring
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(found, dict):
                yield path.parent.name, found

    @staticmethod
    def delete_foreign(name: str) -> None:
        """One that another process started and left."""
        base = ["runsc", "--root", gvisor._RUNSC_ROOT]  # noqa: SLF001 - the module's docstring
        with _translated():
            subprocess.run([*base, "delete", "-force", name], capture_output=True, timeout=_ANSWER_S, check=False)
        shutil.rmtree(Path(gvisor._RAY_SANDBOX_DIR) / name, ignore_errors=True)  # noqa: SLF001 - the same


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SandboxError, OSError, ValueError, subprocess.TimeoutExpired) as exc:
        raise _failed(str(exc)) from exc


def _failed(words: str) -> UnavailableError:
    """They name the host's folders and ids: they go into the log, and no further."""
    get_logger().warning("ray's sandbox failed", reason=words.strip()[-_MOST_WORDS:])
    return UnavailableError("Ray's sandbox failed; this node's log says why. Try again.")
