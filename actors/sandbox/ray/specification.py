"""What Ray's API has no word for, written into a sandbox's OCI specification: places, limits, rights, whose it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.sandbox.containers.places import USER_ID, writable_places
from configs.sandboxes import Limits

OWNER_NOTE, SANDBOX_NOTE = "aether.pool", "aether.sandbox"
Specification = dict[str, Any]
_MIB = 1024 * 1024
_OWN_BYTES = 128 * _MIB
"""Memory gVisor and the supervisor need beside what the profile leaves to programs."""
_SPARE_TASKS = 256
_CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


@dataclass(frozen=True)
class Bind:
    source: Path
    target: str
    is_writable: bool = False


def memory_bytes(limits: Limits) -> int:
    """What lies in a file system in memory is memory to the kernel."""
    return int(limits.memory) + int(limits.disk) + _OWN_BYTES


def amend(
    limits: Limits, binds: list[Bind], notes: Mapping[str, str], group: str | None
) -> Callable[[Specification], Specification]:
    """The change. `group` is the control group to put the sandbox in; None: there is none."""

    def change(found: Specification) -> Specification:
        found["annotations"] = {**found.get("annotations", {}), **notes}
        taken = {place.path for place in writable_places(limits)} | {bind.target for bind in binds}
        mounts = [mount for mount in found.get("mounts", ()) if mount.get("destination") not in taken]
        mounts += [
            {"destination": place.path, "type": "tmpfs", "source": "tmpfs", "options": list(place.options)}
            for place in writable_places(limits)
        ]
        mounts += [
            {
                "destination": bind.target,
                "type": "bind",
                "source": str(bind.source),
                "options": ["rbind", "rw" if bind.is_writable else "ro"],
            }
            for bind in binds
        ]
        found["mounts"] = mounts
        process = found["process"]
        process["user"] = {"uid": USER_ID, "gid": USER_ID}
        process["noNewPrivileges"] = True
        process["capabilities"] = {name: [] for name in _CAPABILITY_SETS}
        process["rlimits"] = [
            {"type": f"RLIMIT_{name}", "hard": most, "soft": most}
            for name, most in (("NOFILE", limits.open_files), ("NPROC", limits.processes), ("CORE", 0))
        ]
        linux = found["linux"]
        if group is None:
            # gVisor without control groups would refuse to start with their limits.
            linux.pop("resources", None)
        else:
            linux["cgroupsPath"] = group
            # Of threads of the host's: gVisor needs more of them than it runs processes, and counts those itself.
            linux["resources"]["pids"] = {"limit": 2 * limits.processes + _SPARE_TASKS}
        return found

    return change
