"""With addresses of servers in the environment, the platform uses those, and `down` leaves them alone."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest

from serve_app.core.db.engine import Database
from tests.conftest import Server
from tests.e2e.conftest import AETHER, Platform, clean_environ, free_port
from tests.e2e.test_platform import Follower, assert_whole, open_session, post
from tests.seaweed import ACCESS_KEY, SECRET_KEY


@pytest.fixture
def ray_address() -> Iterator[str]:
    """A Ray of somebody else's, in its own process group."""
    port = free_port()
    temp_dir = tempfile.mkdtemp(prefix="aer-", dir="/tmp")
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AETHER_", "RAY_"))},
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
    }
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block",
            f"--port={port}", f"--temp-dir={temp_dir}", "--include-dashboard=false", "--num-cpus=2", "--no-monitor",
            "--object-store-memory=100000000", f"--dashboard-agent-listen-port={free_port()}",
            f"--ray-client-server-port={free_port()}",
        ],
        env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not _is_up(port):
        assert process.poll() is None, "ray start ended"
        assert time.monotonic() < deadline, "ray start took too long"
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    family = psutil.Process(process.pid).children(recursive=True)
    for member in [psutil.Process(process.pid), *family]:
        member.kill()
    process.wait(timeout=10)
    psutil.wait_procs(family, timeout=10)
    subprocess.run(["rm", "-rf", temp_dir], check=True)


def _is_up(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _applications(ray_address: str) -> list[str]:
    """Our replicas and agent hosts on the Ray at this address."""
    titles = [" ".join(found.cmdline()) for found in psutil.process_iter() if _is_ours(found, ray_address)]
    return [title for title in titles if "ServeReplica" in title or "AgentHost" in title]


def _is_ours(process: psutil.Process, ray_address: str) -> bool:
    """Whether a process is a descendant of the Ray at this address."""
    try:
        return any(ray_address.rpartition(":")[2] in " ".join(parent.cmdline()) for parent in process.parents())
    except psutil.NoSuchProcess:
        return False


async def test_the_platform_on_servers_it_did_not_start(
    postgres: Server, valkey: Server, seaweedfs: str, ray_address: str, tmp_path: Path
) -> None:
    data_dir, port = tmp_path / "data", free_port()
    environ = clean_environ(
        data_dir, port, AETHER_DATABASE_URL=postgres.url, AETHER_REDIS_URL=valkey.url, AETHER_S3_BUCKET="objects",
        AETHER_S3_ENDPOINT_URL=seaweedfs, AETHER_S3_ACCESS_KEY_ID=ACCESS_KEY, AETHER_S3_SECRET_ACCESS_KEY=SECRET_KEY,
        AETHER_RAY_ADDRESS=ray_address, AETHER_SESSION_MAX_ANSWER_TOKENS="40", RAY_AUTH_MODE="disabled",
    )  # fmt: skip
    started = time.monotonic()
    up = subprocess.run(
        [AETHER, "up", "--detach"], env=environ, capture_output=True, text=True, timeout=150, check=False
    )
    assert up.returncode == 0, up.stdout + up.stderr
    platform = Platform(data_dir, port, (data_dir / "cli.key").read_text().strip(), up.stdout, environ)
    try:
        names = {process["component"] for process in platform.status()["processes"]}
        assert not {name for name in names if "postgres" in name or "valkey" in name or "raylet" in name}
        with platform.client() as client:
            session = open_session(client)
            follower = Follower(client, session)
            post(client, session, "Say hello.")
            events = follower.until("turn.completed")
            assert_whole(events)
            made = events[3]["data"]
            file = client.get(f"/api/v1/creations/{made['creation_id']}/versions/1/files/document.md")
            assert file.text == events[2]["data"]["text"]
        assert len(_applications(ray_address)) == 4
    finally:
        platform.aether("down", check=False)
    assert _applications(ray_address) == []
    database = Database(postgres.url)
    await database.ping()
    await database.close()
    s3 = boto3.client(
        "s3", endpoint_url=seaweedfs, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )  # fmt: skip
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="objects", Prefix="orgs/").get("Contents", [])]
    s3.close()
    assert any("/blobs/" in key for key in keys)
    assert not (data_dir / "objects").exists()
    assert time.monotonic() - started < 170
