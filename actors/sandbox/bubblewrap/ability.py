"""Whether bubblewrap sandboxes can be had on this machine: tried once, and explained where they cannot."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from actors.sandbox.base import Ability, Enforced
from actors.sandbox.bubblewrap.limits import Holds
from actors.sandbox.bubblewrap.spawning import NotStartedError
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
_CORE_DUMPS = (
    "but a program that crashes is dumped to a program of the host, as root:"
    " `sysctl -w kernel.core_pattern=core` keeps that from happening"
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
    except (AetherError, NotStartedError) as exc:
        return Ability(NAME, is_usable=False, reason=explain(str(exc)), limits=holds.limits())
    return Ability(NAME, is_usable=True, reason="", limits=with_core_dumps(holds.limits()))


def with_core_dumps(limits: Sequence[Enforced], root: Path = Path("/")) -> tuple[Enforced, ...]:
    """Says where it is so that what crashes in a sandbox is handed to a program of the host: no limit keeps it from that."""
    try:
        is_piped = (root / "proc/sys/kernel/core_pattern").read_text().startswith("|")
    except OSError:
        is_piped = False
    if not is_piped:
        return tuple(limits)
    return tuple(replace(one, note=f"{one.note}; {_CORE_DUMPS}") if one.limit == "disk" else one for one in limits)


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
