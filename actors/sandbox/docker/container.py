"""What a sandbox is to the engine: the description of its container, in the form of the Docker Engine API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.sandbox.base import HOME, WORKSPACE
from actors.sandbox.containers.places import USER_ID, writable_places
from actors.sandbox.docker.seccomp import docker_profile
from configs.sandboxes import BackendName, Limits

OWNER_LABEL, SANDBOX_LABEL = "aether.pool", "aether.sandbox"

_USER = f"{USER_ID}:{USER_ID}"
_MIB = 1024 * 1024
_GVISOR_SPARE_TASKS = 256
_LOCKED_BYTES = 8 * _MIB
_OOM_SCORE = 300
"""Before the platform's own processes, when the whole machine runs out of memory."""


@dataclass(frozen=True)
class Runtime:
    """What runs the containers of a backend. `name` is how the engine's configuration calls it."""

    backend: BackendName
    name: str
    is_gvisor: bool
    own_bytes: int
    """Memory it and the supervisor need beside what the profile leaves to programs."""


RUNC = Runtime("docker", "runc", is_gvisor=False, own_bytes=32 * _MIB)
GVISOR = Runtime("gvisor", "runsc", is_gvisor=True, own_bytes=128 * _MIB)


@dataclass(frozen=True)
class Bind:
    """A folder of the host's that the container sees."""

    source: Path
    target: str
    is_writable: bool = False


def describe(
    image: str,
    runtime: Runtime,
    limits: Limits,
    command: Sequence[str],
    binds: Sequence[Bind],
    labels: Mapping[str, str],
) -> dict[str, object]:
    """The body of `POST /containers/create`. `image` is an id, so that a tag that moves changes nothing here."""
    # gVisor's programs never reach the host's system calls.
    seccomp = None if runtime.is_gvisor else docker_profile()
    memory = limits.memory + limits.disk + runtime.own_bytes
    return {
        "Image": image,
        "Entrypoint": list(command),
        "Cmd": [],
        "User": _USER,
        "Env": [f"HOME={HOME}", "LANG=C.UTF-8"],
        "WorkingDir": WORKSPACE,
        "Hostname": "sandbox",
        "Labels": dict(labels),
        "Healthcheck": {"Test": ["NONE"]},
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": {
            "Runtime": runtime.name,
            "NetworkMode": "none",
            "IpcMode": "none",
            "CgroupnsMode": "private",
            "ReadonlyRootfs": True,
            "Tmpfs": {place.path: ",".join(place.options) for place in writable_places(limits)},
            "Mounts": [_mount(bind) for bind in binds],
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"] + ([f"seccomp={seccomp}"] if seccomp else []),
            # What lies in a tmpfs is memory to the kernel, so the disk limit is added to the memory limit.
            "Memory": memory,
            "MemorySwap": memory,
            "NanoCpus": round(limits.cpu * 1_000_000_000),
            "PidsLimit": _tasks(runtime, limits),
            "Ulimits": [
                {"Name": name, "Soft": most, "Hard": most} for name, most in _resources(runtime, limits).items()
            ],
            "OomScoreAdj": _OOM_SCORE,
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
            "Init": False,
        },
    }


def _mount(bind: Bind) -> dict[str, object]:
    return {
        "Type": "bind",
        "Source": str(bind.source),
        "Target": bind.target,
        "ReadOnly": not bind.is_writable,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _tasks(runtime: Runtime, limits: Limits) -> int:
    """gVisor counts a sandbox's processes itself; the host sees its threads, and killing one of them kills it all."""
    return 2 * limits.processes + _GVISOR_SPARE_TASKS if runtime.is_gvisor else limits.processes


def _resources(runtime: Runtime, limits: Limits) -> dict[str, int]:
    found = {
        "nofile": limits.open_files,
        "core": 1,  # of 0 the kernel takes no notice where the host's core_pattern is a pipe; of 1 it makes none at all
        "fsize": int(limits.disk),
        "memlock": _LOCKED_BYTES,
        "msgqueue": 0,
        "rtprio": 0,
    }
    # Outside gVisor the kernel would count all containers' processes of this user id together.
    return found | {"nproc": limits.processes} if runtime.is_gvisor else found
