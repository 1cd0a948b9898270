"""What the spawner prepares in mount namespaces of its own: a small root with the image in it, and a box per sandbox.

No mount made here is seen by the host, so none can be left behind by whatever is killed.
"""

import os
from collections.abc import Sequence
from typing import TypedDict

from actors.sandbox.bubblewrap import system

IMAGE = "/image"
"""What sandboxes see as their root, read only."""
BOX = "/box"
"""One file system of limited size per sandbox, with `work`, `home`, `tmp` and `shm` in it."""
FILTER = "/filter"
PROGRAM = "/program"
"""The folder that holds bubblewrap and its libraries as they lie in the wheel."""
_MOST_TERMINALS = 64
"""Of one box. Kernels give out 3,072 to all of them together."""
BOX_FOLDERS = {"work": 0o755, "home": 0o755, "tmp": 0o1777, "shm": 0o1777}

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}  # fmt: skip
_MOUNT_POINTS = ("proc", "dev", "work", "tmp", "home/agent", "run", "var", "opt/aether")


class Plan(TypedDict):
    """How the root is made. Targets are paths below the stage, sources are the host's."""

    stage: str
    has_own_users: bool
    """The spawner may become any user. Otherwise it takes a user namespace, in which it may mount."""
    binds: list[tuple[str, str]]
    links: list[tuple[str, str]]
    """Target, then what the link says."""


class Seed(TypedDict):
    """One small file, folder or link that is in a new box."""

    path: str
    kind: str
    text: str


def build(plan: Plan) -> None:
    """Leave the host's file system for one that holds nothing but the image and bubblewrap."""
    uid, gid = os.geteuid(), os.getegid()
    if plan["has_own_users"]:
        system.unshare(system.NEW_NAMESPACE_MOUNT)
    else:
        system.unshare(system.NEW_NAMESPACE_MOUNT | system.NEW_NAMESPACE_USER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    system.mount("none", "/", None, system.RECURSIVE | system.PRIVATE)
    stage = plan["stage"]
    system.mount("stage", stage, "tmpfs", system.NO_SETUID, "size=4m,nr_inodes=8192,mode=0755")
    for folder in (
        "proc",
        "dev/pts",
        "dev/shm",
        "tmp",
        "empty",
        BOX[1:],
        *(f"{IMAGE[1:]}/{name}" for name in _MOUNT_POINTS),
    ):
        os.makedirs(f"{stage}/{folder}", exist_ok=True)
    for target, text in [*plan["links"], *((f"dev/{name}", text) for name, text in _DEVICE_LINKS.items())]:
        os.makedirs(os.path.dirname(f"{stage}/{target}"), exist_ok=True)
        os.symlink(text, f"{stage}/{target}")
    system.bind("/proc", f"{stage}/proc")
    devices = [(f"/dev/{name}", f"dev/{name}") for name in _DEVICES]
    for source, target in [*devices, *plan["binds"]]:
        _bind(source, f"{stage}/{target}")
    system.make_root(stage)
    system.mount("none", "/", None, system.REMOUNT | system.BIND | system.READ_ONLY | system.NO_SETUID)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "x", encoding="ascii"):
            pass
    system.bind(source, target)


def open_box(size_bytes: int, inodes: int, uid: int, gid: int) -> None:
    """In a mount namespace of the calling process alone: its file system, and terminals of its own."""
    system.unshare(system.NEW_NAMESPACE_MOUNT)
    system.mount(
        "workspace",
        BOX,
        "tmpfs",
        system.NO_SETUID | system.NO_DEVICES,
        f"size={size_bytes},nr_inodes={inodes},mode=0755,uid={uid},gid={gid}",
    )
    # Not bubblewrap's, which has no limit: one sandbox could take every terminal of the machine.
    system.mount(
        "terminals", "/dev/pts", "devpts", system.NO_SETUID | system.NO_PROGRAMS,
        f"newinstance,ptmxmode=0666,mode=620,max={_MOST_TERMINALS}",
    )  # fmt: skip


def fill_box(seeds: Sequence[Seed]) -> None:
    """As the user the sandbox will be."""
    for name, mode in BOX_FOLDERS.items():
        os.mkdir(f"{BOX}/{name}")
        os.chmod(f"{BOX}/{name}", mode)
    for seed in seeds:
        path = f"{BOX}/{seed['path']}"
        match seed["kind"]:
            case "folder":
                os.mkdir(path)
            case "link":
                os.symlink(seed["text"], path)
            case kind:
                mode = 0o755 if kind == "program" else 0o644
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                os.write(descriptor, seed["text"].encode())
                os.close(descriptor)
