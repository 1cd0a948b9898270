"""The backends a node's profiles need, each in a folder of its own; and what each can enforce on this machine."""

from functools import partial
from pathlib import Path

from actors.sandbox.base import Ability, SandboxBackend
from actors.sandbox.bubblewrap.backend import BubblewrapBackend
from actors.sandbox.bubblewrap.machine import find_machine
from actors.sandbox.bubblewrap.program import bubblewrap_program
from actors.sandbox.docker.backend import DockerBackend
from actors.sandbox.docker.container import GVISOR, RUNC
from actors.sandbox.docker.engine import Engine
from actors.sandbox.folder import PoolFolder
from configs.sandboxes import BackendName, Profiles
from configs.settings import Settings
from serve_app.core.clock import SystemClock

SUPERVISOR = Path(__file__).with_name("inside")
"""The program that runs inside every sandbox."""


_ALL: tuple[BackendName, ...] = ("bubblewrap", "docker", "gvisor", "ray")
_IMAGE = "aetheros-sandbox"
"""What a backend that no profile uses tries its limits in."""


class Backends:
    """Those the profiles need, or all, for one life of a pool, which closes each of them."""

    def __init__(self, profiles: Profiles, settings: Settings, *, wants_all: bool = False) -> None:
        self.folder = PoolFolder(settings.data_dir, settings.sandbox.run_dir)
        self.folder.take()
        self._docker_host = settings.sandbox.docker_host
        images = dict.fromkeys(_ALL, _IMAGE) if wants_all else {}
        for profile in profiles.profiles:
            images.setdefault(profile.backend, profile.image or "")
        self.by_name = {name: self._make(name, image) for name, image in images.items()}

    def _make(self, name: BackendName, image: str) -> SandboxBackend:
        owner = f"{self.folder.name}-{name}"
        run_dir = self.folder.path / name[0]  # short: see PoolFolder
        match name:
            case "bubblewrap":
                return BubblewrapBackend(run_dir, partial(find_machine, program=bubblewrap_program()))
            case "docker" | "gvisor":
                return DockerBackend(
                    Engine(self._docker_host),
                    RUNC if name == "docker" else GVISOR,
                    owner=owner,
                    image=image,
                    run_dir=run_dir,
                    supervisor=SUPERVISOR,
                    clock=SystemClock(),
                )
            case "ray":
                # Here, because to load Ray costs a command line more than a second.
                from actors.sandbox.ray.backend import RayBackend
                from actors.sandbox.ray.handles import RayRuntime

                return RayBackend(RayRuntime(), owner=owner, image=image, run_dir=run_dir, supervisor=SUPERVISOR)

    def close(self) -> None:
        """After each of them was closed."""
        self.folder.leave()


async def abilities(profiles: Profiles, settings: Settings) -> list[Ability]:
    """What each backend can enforce on this machine, tried for real."""
    backends = Backends(profiles, settings, wants_all=True)
    try:
        found = []
        for backend in backends.by_name.values():
            found.append(await backend.ability())
            await backend.close()
        return found
    finally:
        backends.close()
