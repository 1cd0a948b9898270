"""Whether a Docker engine and its runtime can be used for sandboxes, and what the engine says it can limit."""

from actors.sandbox.containers.judging import Claims
from actors.sandbox.containers.trial import Findings
from actors.sandbox.docker.container import Runtime
from actors.sandbox.docker.engine import EngineFacts


def unusable(facts: EngineFacts, runtime: Runtime) -> str:
    """Why no sandbox can be started at all, and how to mend it; empty when one can."""
    if runtime.name not in facts.runtimes:
        return (
            f"Docker has no runtime named {runtime.name}. Install gVisor and add it to /etc/docker/daemon.json, with "
            '"runtimeArgs": ["--host-uds=open", "--network=none"].'
            if runtime.is_gvisor
            else f"Docker has no runtime named {runtime.name}."
        )
    if facts.is_rootless and not facts.has_memory_limit:
        return "This rootless Docker has no control groups. It needs cgroup v2 and a systemd user session."
    return ""


def unreachable(findings: Findings, runtime: Runtime) -> str:
    """Why a container cannot reach its door; empty when it can."""
    dialled = findings.told.get("dial")
    if dialled == "ok":
        return ""
    if runtime.is_gvisor:
        return (
            f"A container under {runtime.name} cannot connect to a Unix socket of the host ({dialled}): give the runtime "
            '"runtimeArgs": ["--host-uds=open", "--network=none"] in /etc/docker/daemon.json (before 2023: "--fsgofer-host-uds").'
        )
    return f"A container cannot connect to a Unix socket of the host ({dialled}). Is the engine on this machine?"


def claims(facts: EngineFacts, runtime: Runtime) -> Claims:
    return Claims(
        is_gvisor=runtime.is_gvisor,
        has_cpu_limit=facts.has_cpu_limit,
        has_memory_limit=facts.has_memory_limit,
        has_swap_limit=facts.has_swap_limit,
        is_host_user=not (runtime.is_gvisor or facts.has_own_users),
        why_not="Docker says that this kernel has no such control group",
    )
