"""Whether bubblewrap sandboxes can be had on this machine: tried once, and explained where they cannot."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from actors.sandbox.base import Ability
from actors.sandbox.bubblewrap.limits import Holds
from serve_app.core.errors import AetherError

NAME = "bubblewrap"

_SWITCHES = (
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "user namespaces are switched off: `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    ("user/max_user_namespaces", "0", "no user namespace may be made: `sysctl -w user.max_user_namespaces=65536`"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        (
            "AppArmor takes all rights from user namespaces of ordinary users:"
            " `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run the platform as root"
        ),
    ),
)
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
_IN_CONTAINER = (
    "this is a container, which may make no namespaces by default: start it with"
    " `--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    " --security-opt systempaths=unconfined`, or use the docker backend"
)


async def find_ability(prepare: Callable[[], Awaitable[Holds]], try_one: Callable[[], Awaitable[None]]) -> Ability:
    """`try_one` starts a sandbox for real and destroys it."""
    try:
        holds = await prepare()
    except AetherError as exc:
        return Ability(NAME, is_usable=False, reason=explain(exc.message), limits=())
    try:
        await try_one()
    except AetherError as exc:
        return Ability(NAME, is_usable=False, reason=explain(exc.message), limits=holds.limits())
    return Ability(NAME, is_usable=True, reason="", limits=holds.limits())


def explain(failure: str, root: Path = Path("/")) -> str:
    """The failure, and what on this machine explains it. Sentences, for people."""
    hints = [hint for name, value, hint in _SWITCHES if _reads(root / "proc/sys" / name, value)]
    if any((root / mark.lstrip("/")).exists() for mark in _CONTAINER_MARKS):
        hints.append(_IN_CONTAINER)
    if not hints:
        return failure
    return f"{failure.rstrip('.')}. What may be the cause: {'; '.join(hints)}."


def _reads(file: Path, value: str) -> bool:
    try:
        return file.read_text().strip() == value
    except OSError:
        return False
