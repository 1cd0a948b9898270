"""The sandboxes' filter of system calls, in the form in which container engines take it."""

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from actors.sandbox.bubblewrap.bpf import WORD, Condition
from actors.sandbox.bubblewrap.seccomp import ALLOWED, ALLOWED_WHEN, MISSING, REFUSED_WHEN
from actors.sandbox.bubblewrap.syscalls import AARCH64, X86_64

_ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", X86_64), "aarch64": ("SCMP_ARCH_AARCH64", AARCH64)}
_WORD_BITS = 32
# What is said of it elsewhere protects a link to bubblewrap's spawner, which containers do not have.
_UNCONDITIONAL = frozenset({"prctl"})


@cache
def docker_profile(machine: str | None = None) -> str | None:
    """JSON for Docker's `seccomp=` option. None: there is no table for this machine's architecture."""
    known = _ARCHITECTURES.get(machine or os.uname().machine)
    if known is None:
        return None
    architecture, numbers = known
    names = frozenset(numbers)
    conditional = (ALLOWED_WHEN.keys() | REFUSED_WHEN.keys()) - _UNCONDITIONAL
    allowed = ALLOWED | _UNCONDITIONAL
    denied = names - allowed - conditional - MISSING
    syscalls: list[Mapping[str, object]] = [
        {"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"},
        # Said by name, so that a call too new for our tables is told from one we refuse.
        {"names": sorted(denied), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
        {"names": sorted(MISSING), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    for name, alternatives in ALLOWED_WHEN.items():
        syscalls += [_allow(name, conditions) for conditions in alternatives]
    for name in REFUSED_WHEN.keys() - _UNCONDITIONAL:
        argument, values = _one_argument(REFUSED_WHEN[name])
        syscalls += [_allow(name, [Condition(argument, value, mask)]) for value, mask in all_but(values)]
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": errno.ENOSYS,
            "architectures": [architecture],
            "syscalls": syscalls,
        }
    )


def all_but(values: Iterable[int]) -> list[tuple[int, int]]:
    """Every 32-bit number except `values`, as few pairs of a value and the mask under which it is meant.

    An engine's profile can say neither "and not" of one argument twice, nor "refuse" of a call that is allowed
    otherwise.
    """
    left, blocks = frozenset(values), []
    pending = [(0, 0)]
    while pending:
        prefix, bits = pending.pop()
        shift = _WORD_BITS - bits
        if not any(value >> shift == prefix for value in left):
            blocks.append((prefix << shift, WORD >> shift << shift))
        elif bits < _WORD_BITS:
            pending += [(prefix << 1, bits + 1), (prefix << 1 | 1, bits + 1)]
    return blocks


def _allow(name: str, conditions: Sequence[Condition]) -> dict[str, object]:
    if any(not condition.is_equal for condition in conditions):
        raise ValueError(f"{name}: a container engine's profile has no such condition")
    return {
        "names": [name],
        "action": "SCMP_ACT_ALLOW",
        "args": [
            {"index": one.argument, "op": "SCMP_CMP_MASKED_EQ", "value": one.mask, "valueTwo": one.value}
            for one in conditions
        ],
    }


def _one_argument(alternatives: Sequence[Sequence[Condition]]) -> tuple[int, list[int]]:
    """Which argument all of them speak of, and the values they name."""
    conditions = [condition for alternative in alternatives for condition in alternative]
    arguments = {condition.argument for condition in conditions}
    is_plain = len(conditions) == len(alternatives) and len(arguments) == 1
    if not is_plain or any(one.mask != WORD or not one.is_equal for one in conditions):
        raise ValueError("only values of one argument can be refused in a container engine's profile")
    return arguments.pop(), [condition.value for condition in conditions]
