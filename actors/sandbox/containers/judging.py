"""Which limits are held on this machine: what the engine says, and what a trial has shown."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from actors.sandbox.base import Enforced, LimitName, Means
from actors.sandbox.containers.trial import LIMITS, Findings

_SLACK = 1.5
"""How far the cores a trial measured may be above the limit: they are lent by the tenth of a second."""


@dataclass(frozen=True)
class Claims:
    """What the engine says of itself. What it denies is not held, whatever a trial shows."""

    is_gvisor: bool
    has_cpu_limit: bool
    has_memory_limit: bool
    has_swap_limit: bool
    is_host_user: bool
    """The sandbox's user id means the same user on the host."""
    why_not: str = ""
    """How limits it denies could be had."""


def judge(claims: Claims, findings: Findings) -> tuple[Enforced, ...]:
    return tuple(_judge(claims, findings))


def _judge(claims: Claims, findings: Findings) -> Iterator[Enforced]:
    told = findings.told
    cores = told.get("cpu")
    if not claims.has_cpu_limit:
        yield Enforced("cpu", Means.NOTHING, claims.why_not)
    elif isinstance(cores, float) and cores <= LIMITS.cpu * _SLACK:
        yield Enforced("cpu", Means.CGROUP)
    else:
        yield Enforced("cpu", Means.NOTHING, f"{cores} cores may be used where {LIMITS.cpu} were allowed")
    yield _memory(claims, told)
    yield _counted(
        findings,
        "disk",
        LIMITS.disk,
        Means.MOUNT,
        "half for the workspace, a quarter for /tmp, the rest for home and /dev/shm",
    )
    if claims.is_gvisor:
        # Its files exist in its own kernel's memory only: the host has no inode to lose.
        yield Enforced("inodes", Means.CGROUP, "not counted: files take the sandbox's own memory, which is limited")
    else:
        yield _counted(findings, "inodes", LIMITS.inodes, Means.MOUNT)
    means = Means.ENGINE if claims.is_gvisor else Means.CGROUP
    yield _counted(findings, "processes", LIMITS.processes, means)
    yield _counted(findings, "open_files", LIMITS.open_files, Means.RLIMIT)
    if told.get("network") == ["lo"]:
        yield Enforced("network", Means.NAMESPACE)
    else:
        yield Enforced("network", Means.NOTHING, f"network interfaces inside: {told.get('network')}")
    yield _system_calls(claims, findings)


def _memory(claims: Claims, told: Mapping[str, object]) -> Enforced:
    if not claims.has_memory_limit:
        return Enforced("memory", Means.NOTHING, claims.why_not)
    if not (claims.is_gvisor or told.get("sockets") is True):
        return Enforced(
            "memory", Means.NOTHING, "nothing counts what TCP sockets hold: boot with cgroup v2, or run pools as root"
        )
    if told.get("memory") != "killed":
        return Enforced("memory", Means.NOTHING, "a program got three times the memory that was allowed")
    notes = ["disk counts as memory, and is added to it"]
    if not claims.has_swap_limit:
        notes.append("swap is not limited by this kernel: turn swap off, or boot with swapaccount=1")
    if claims.is_gvisor:
        notes.append("who is over it loses the whole sandbox")
    return Enforced("memory", Means.CGROUP, "; ".join(notes))


def _counted(findings: Findings, limit: LimitName, most: int, means: Means, note: str = "") -> Enforced:
    count = findings.told.get(limit)
    if isinstance(count, int) and count <= most:
        return Enforced(limit, means, note)
    return Enforced(limit, Means.NOTHING, f"a trial got {count} where {most} were allowed")


def _system_calls(claims: Claims, findings: Findings) -> Enforced:
    if claims.is_gvisor:
        note = f"a kernel of its own ({findings.told.get('kernel')})"
        if findings.told.get("ls") != 0:
            note += ", too old for this image's programs: `ls` fails; install a current runsc"
        return Enforced("system_calls", Means.ENGINE, note)
    answer = findings.told.get("system_calls")
    if answer in {"EPERM", "ENOSYS"}:  # Engines before Docker 23 do not know the filter's own answer.
        note = "outside they would be user 1000 of the host: set userns-remap in Docker's daemon.json"
        return Enforced("system_calls", Means.SECCOMP, note if claims.is_host_user else "")
    return Enforced(
        "system_calls", Means.NOTHING, f"a socket that must be refused was answered {answer}: is seccomp off in Docker?"
    )
