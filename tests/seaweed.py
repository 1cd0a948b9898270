"""A real S3 server (SeaweedFS) of a test run's own, with one bucket, `objects`."""

import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config

ACCESS_KEY, SECRET_KEY = "test", "testsecret"


@contextmanager
def running_seaweedfs(folder: Path) -> Iterator[str]:
    """The endpoint. Nothing is left when the block ends."""
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer", "webdav", "admin")}
    log = (folder / "log").open("wb")
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    process = subprocess.Popen(
        [
            weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
            *(f"-{name}.port={port}" for name, port in ports.items()),
        ],
        stdout=log, stderr=log, cwd=folder, start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder), "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret"},
    )  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    try:
        _make_bucket(endpoint, process, folder / "log")
        yield endpoint
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
        # It puts its sockets into /tmp whatever it is told; gRPC ports are 10,000 above.
        for port in ports.values():
            for path in (
                *Path("/tmp").glob(f"seaweedfs-*-{port}.sock"),
                *Path("/tmp").glob(f"seaweedfs-*-{port + 10_000}.sock"),
            ):
                path.unlink()


def _make_bucket(endpoint: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="testsecret",
        region_name="us-east-1", config=Config(retries={"max_attempts": 1}, connect_timeout=1, read_timeout=5),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket="objects")
            break
        except Exception as exc:
            if time.monotonic() > deadline or process.poll() is not None:
                raise AssertionError(f"SeaweedFS did not start: {exc}\n{log.read_text()[-3000:]}") from exc
            time.sleep(0.3)
    client.close()


def free_port() -> int:
    # SeaweedFS adds 10,000 to some of its ports for gRPC.
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port
