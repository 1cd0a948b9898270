"""What an attack is: what somebody wants, how it is tried, and which refusal each backend must answer with."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from configs.sandboxes import BackendName
from tests.contract.sandbox_backends import Sandbox

if TYPE_CHECKING:
    from tests.escape.host import Host

BACKENDS: tuple[BackendName, ...] = ("bubblewrap", "docker", "gvisor")
DONE = "done"
"""The outcome of an attack that worked."""


@dataclass(frozen=True)
class Held:
    """Exactly one of these outcomes. `why`: that it looks like a success and reaches nothing, or what the words mean."""

    outcomes: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True)
class NotApplicable:
    """There is nothing of the kind to attack."""

    why: str


Refusal = Held | NotApplicable


def held(
    everywhere: str | Refusal, *, docker: str | Refusal | None = None, gvisor: str | Refusal | None = None
) -> dict[BackendName, Refusal]:
    """Outcomes are parted by `|`. A backend that is not named answers as bubblewrap does."""
    return {
        "bubblewrap": _refusal(everywhere),
        "docker": _refusal(everywhere if docker is None else docker),
        "gvisor": _refusal(everywhere if gvisor is None else gvisor),
    }


def contained(why: str, outcome: str = DONE) -> Held:
    """It may be done, because it reaches nothing but the sandbox itself."""
    return Held(tuple(outcome.split("|")), why)


def _refusal(said: str | Refusal) -> Refusal:
    return Held(tuple(said.split("|"))) if isinstance(said, str) else said


# --- how it is shown that the attack would work ------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """Its program, run on the host without a sandbox, is done. `user`: who runs it."""

    user: str = "self"
    """`self`, `root` or `nobody`; only root can become another one."""
    works: str = DONE


@dataclass(frozen=True)
class Weak:
    """Its program is done in a sandbox without a filter and with all rights of its own namespaces."""

    works: str = DONE


@dataclass(frozen=True)
class Naive:
    """What a simpler host would do in place of ours falls for it. Given an empty folder, returns `done`."""

    fall: Callable[[Path], str]


@dataclass(frozen=True)
class Unshown:
    """Why it cannot be shown."""

    why: str


Proof = Plain | Weak | Naive | Unshown
Act = Callable[[Sandbox, "Host"], Awaitable[str]]
"""Tries the attack from the host's side on a sandbox, and tells the outcome."""


@dataclass(frozen=True)
class Attack:
    """Either `program`, the body of a function in Python that runs inside (see inside.py), or `act`."""

    name: str
    wants: str
    refusals: Mapping[BackendName, Refusal]
    program: str = ""
    act: Act | None = None
    proof: Proof = field(default_factory=Plain)
    is_alone: bool = False
    """It gets a sandbox of its own, because it uses up or wrecks one."""
    limits: Mapping[str, float] = field(default_factory=dict)
    timeout_s: float = 20.0


@dataclass(frozen=True)
class Category:
    title: str
    attacks: tuple[Attack, ...]
