"""A real OpenBao of a test run's own, in memory, with a key-value store (version 2) at `secret`."""

import secrets
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.seaweed import free_port


@dataclass(frozen=True)
class OpenBao:
    address: str
    root_token: str

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = httpx.request(
            method, f"{self.address}/v1/{path}", json=body, headers={"X-Vault-Token": self.root_token}, trust_env=False
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def put(self, path: str, fields: dict[str, str]) -> None:
        self.ask("POST", f"secret/data/{path}", {"data": fields})

    def token(self, ttl: str, **more: Any) -> str:
        """One that may read what is below `secret/keys` and nothing else."""
        policy = 'path "secret/data/keys/*" { capabilities = ["read"] }'
        self.ask("PUT", "sys/policies/acl/keys", {"policy": policy})
        made = self.ask("POST", "auth/token/create", {"policies": ["keys"], "ttl": ttl, **more})
        return str(made["auth"]["client_token"])


@contextmanager
def running_openbao(folder: Path) -> Iterator[OpenBao]:
    """Nothing is left when the block ends."""
    port, token = free_port(), secrets.token_hex(8)
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [
            Path(sysconfig.get_path("scripts")) / "bao", "server", "-dev", "-dev-no-store-token",
            f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}",
        ],
        stdout=log, stderr=log, cwd=folder, env={"HOME": str(folder)},
    )  # fmt: skip
    server = OpenBao(f"http://127.0.0.1:{port}", token)
    try:
        _wait(server, process, folder / "log")
        yield server
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        log.close()


def _wait(server: OpenBao, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            server.put("keys/ready", {"is": "yes"})
        except httpx.HTTPError as exc:
            if time.monotonic() > deadline or process.poll() is not None:
                raise AssertionError(f"OpenBao did not start: {exc}\n{log.read_text()[-3000:]}") from exc
            time.sleep(0.1)
        else:
            return
