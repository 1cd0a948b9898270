"""The host that must not be harmed: a secret, a process, doors on every kind of socket; and whether all are as they were."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from actors.sandbox.bubblewrap.syscalls import AARCH64, X86_64

_RAY_PORTS = (6379, 8265, 10001, 8000)
_LATE_S = 5.0


class Host:
    """Made by `running_host`. `neighbour` is what an attack may know of the sandbox next door."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = secrets.token_hex(16)
        self.neighbour: dict[str, object] = {}
        self.contacts: list[str] = []
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._address = _own_address()
        self._abstract = f"aether-{secrets.token_hex(8)}"
        self._skew_s = time.time() - time.monotonic()
        self._name = socket.gethostname()
        self.folder.chmod(0o755)
        self.secret_file.write_text(self.secret)
        self.ledger.write_text("as it was")
        self.ledger.chmod(0o666)

    @property
    def secret_file(self) -> Path:
        """For everybody to read: nothing but the sandbox keeps anybody from it."""
        return self.folder / "secret"

    @property
    def ledger(self) -> Path:
        """For everybody to write."""
        return self.folder / "ledger"

    def world(self) -> dict[str, object]:
        """What the attacker knows. The process named in it lives."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = self._new_process()
        return {
            "secret_file": str(self.secret_file),
            "ledger": str(self.ledger),
            "folder": str(self.folder),
            "pid": process.pid,
            "victim": 1,
            "address": self._address,
            "ports": self._ports,
            "unix": str(self.folder / "postgres"),
            "docker": str(self.folder / "docker.sock"),
            "abstract": f"\0{self._abstract}",
            "neighbour": self.neighbour,
            "calls": {"x86_64": X86_64, "aarch64": AARCH64}[os.uname().machine],
            "machine": os.uname().machine,
        }

    def _new_process(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["sleep", "600"], env={"AETHER_SECRET": self.secret}, cwd=self.folder, start_new_session=True
        )

    async def listen(self, stack: AsyncExitStack) -> None:
        """A door of each kind; a knock on any is remembered."""
        self._process = self._new_process()
        self._ports = {
            "loopback": await self._serve(stack, "loopback", "127.0.0.1", 0),
            "loopback6": await self._serve(stack, "loopback6", "::1", 0) if socket.has_ipv6 else 0,
            "outward": await self._serve(stack, "outward", self._address, 0),
            "ray": await self._serve_ray(stack),
        }
        for name in ("postgres", "docker.sock"):
            server = await asyncio.start_unix_server(self._knocked(name), self.folder / name)
            (self.folder / name).chmod(0o666)
            stack.callback(server.close)
        server = await asyncio.start_unix_server(self._knocked("abstract"), f"\0{self._abstract}")
        stack.callback(server.close)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self.contacts), local_addr=("127.0.0.1", 0)
        )
        stack.callback(transport.close)
        self._ports["udp"] = transport.get_extra_info("sockname")[1]

    async def _serve(self, stack: AsyncExitStack, name: str, address: str, port: int) -> int:
        server = await asyncio.start_server(self._knocked(name), address, port)
        stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def _serve_ray(self, stack: AsyncExitStack) -> int:
        """On one of Ray's own ports, unless a Ray that runs here has them all."""
        for port in (*_RAY_PORTS, 0):
            try:
                return await self._serve(stack, "ray", "127.0.0.1", port)
            except OSError:
                continue
        raise AssertionError("no port is free on the loopback interface")

    def _knocked(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - asyncio's own callback type
        async def knocked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.contacts.append(name)
            writer.close()

        return knocked

    def assert_unharmed(self) -> None:
        """Everything is as it was before the first attack."""
        assert self.secret_file.read_text() == self.secret, "the secret file was changed"
        assert self.ledger.read_text() == "as it was", "a file of the host was changed"
        assert sorted(path.name for path in self.folder.iterdir()) == ["docker.sock", "ledger", "postgres", "secret"]
        process = self._process
        assert process is not None
        assert process.poll() is None, "a process of the host was killed"
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        assert state[0] in "SR", "a process of the host was stopped"
        assert state[16] == "0", "a process of the host has another priority"
        assert self.contacts == [], "somebody reached a socket of the host"
        assert abs(time.time() - time.monotonic() - self._skew_s) < _LATE_S, "the clock was changed"
        assert socket.gethostname() == self._name, "the host's name was changed"

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, contacts: list[str]) -> None:
        self._contacts = contacts

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._contacts.append("udp")


def _own_address() -> str:
    """Of the interface that leads out; the loopback's where none does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))
            return str(one.getsockname()[0])
        except OSError:
            return "127.0.0.1"


@asynccontextmanager
async def running_host() -> AsyncIterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="aet-host-", dir="/tmp"))
    host = Host(folder)
    try:
        async with AsyncExitStack() as stack:
            await host.listen(stack)
            yield host
    finally:
        host.close()
        shutil.rmtree(folder, ignore_errors=True)
