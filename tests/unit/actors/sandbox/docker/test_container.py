"""How a container is described to the engine: everything that holds a sandbox, in the words of the Engine API."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ByteSize

from actors.sandbox.containers.places import SUPERVISOR, launch
from actors.sandbox.containers.trial import Findings
from actors.sandbox.docker.backend import DockerBackend
from actors.sandbox.docker.container import GVISOR, RUNC, Bind, Runtime, describe
from actors.sandbox.docker.engine import Engine, EngineFacts
from actors.sandbox.docker.seccomp import docker_profile
from actors.sandbox.docker.trials import Ready
from configs.sandboxes import Limits, Profile
from serve_app.core.clock import SystemClock
from serve_app.core.domain.ids import new_sandbox_id

_MIB = 1024 * 1024
_LIMITS = Limits(
    cpu=0.5, memory=ByteSize(256 * _MIB), disk=ByteSize(64 * _MIB), inodes=8000, processes=64, open_files=128
)


def described(runtime: Runtime = RUNC) -> Any:
    binds = (Bind(Path("/run/x/supervisor"), SUPERVISOR),)
    found = describe("sha256:1", runtime, _LIMITS, launch("--dial /d"), binds, {"a": "b"})
    json.dumps(found)
    return found


def test_nothing_is_open_that_need_not_be() -> None:
    host = described()["HostConfig"]
    assert (host["NetworkMode"], host["IpcMode"], host["CgroupnsMode"]) == ("none", "none", "private")
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges", f"seccomp={docker_profile()}"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["LogConfig"]["Type"] == "none"
    assert not host.keys() & {"Privileged", "CapAdd", "Devices", "PidMode", "Binds", "PortBindings", "UsernsMode"}
    assert all(mount["ReadOnly"] and mount["BindOptions"]["Propagation"] == "rprivate" for mount in host["Mounts"])
    assert described()["User"] == "1000:1000"


def test_every_limit_is_said() -> None:
    host = described()["HostConfig"]
    assert host["NanoCpus"] == 500_000_000
    assert host["Memory"] == host["MemorySwap"] == (256 + 64 + 32) * _MIB
    assert host["PidsLimit"] == 64
    limits = {each["Name"]: each["Hard"] for each in host["Ulimits"]}
    assert limits["nofile"] == 128
    assert (limits["core"], limits["msgqueue"]) == (1, 0)
    assert "nproc" not in limits


def test_the_writable_folders_share_the_disk_limit() -> None:
    folders = described()["HostConfig"]["Tmpfs"]
    assert folders.keys() == {"/work", "/tmp", "/home/agent", "/dev/shm"}
    assert sum(int(number(options, "size")) for options in folders.values()) == _LIMITS.disk
    assert sum(int(number(options, "nr_inodes")) for options in folders.values()) == _LIMITS.inodes
    assert all("nosuid" in options and "nodev" in options for options in folders.values())


def number(options: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\d+)", options)
    assert found
    return found[1]


def test_gvisor_counts_processes_itself_and_filters_nothing_on_the_host() -> None:
    host = described(GVISOR)["HostConfig"]
    assert host["Runtime"] == "runsc"
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert {"Name": "nproc", "Soft": 64, "Hard": 64} in host["Ulimits"]
    assert host["PidsLimit"] > 64


@pytest.mark.parametrize(
    ("profile", "has_way_out"),
    [({}, False), ({"egress": {"allow": ["example.org"]}}, True), ({"may_use_connectors": True}, True)],
)
async def test_a_sandbox_with_a_way_out_is_told_of_it(
    tmp_path: Path, profile: dict[str, object], *, has_way_out: bool
) -> None:
    backend = DockerBackend(
        Engine("unix:///nowhere"), RUNC, owner="o", image="i", run_dir=tmp_path, supervisor=tmp_path,
        clock=SystemClock(),
    )  # fmt: skip
    facts = EngineFacts(
        runtimes=frozenset(), has_memory_limit=True, has_swap_limit=True, has_cpu_limit=True, counts_sockets=True,
        is_rootless=False, has_own_users=True,
    )  # fmt: skip
    asked = Profile.model_validate({"id": "p", "backend": "docker", "image": "i", **profile})
    found: Any = backend._describe(new_sandbox_id(), asked, Ready("i", Findings(tmp_path, {}), facts), tmp_path)
    assert ("--egress" in found["Entrypoint"][-1]) is has_way_out is asked.has_way_out
    await backend.close()


def test_the_token_is_in_no_argument() -> None:
    found = described()
    assert "--dial /d --token-fd 9 9<" in found["Entrypoint"][-1]
    assert found["Cmd"] == []
    assert found["Env"] == ["HOME=/home/agent", "LANG=C.UTF-8"]
