"""pip and npm, unchanged, installing through the supervisor's outlet, the client's offers and the proxy."""

import asyncio
import base64
import ensurepip
import hashlib
import io
import json
import shutil
import socket
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import actors.sandbox.inside
from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_unix
from actors.sandbox.egress.outlets import EgressOutlets
from configs.sandboxes import Egress
from serve_app.core.domain.addresses import Reach
from tests.integration.egress.world import Authority, Heard, Host, a_sandbox, make_authority, online, running
from tests.unit.actors.sandbox.egress.doubles import CountedMetrics, FixedConnectors, ScriptedResolver

INSIDE = Path(actors.sandbox.inside.__file__).parent
PIP = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
TOKEN = "0123456789abcdef" * 2


def a_wheel() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as wheel:
        wheel.writestr("tiny.py", "ANSWER = 42\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\n")
        wheel.writestr("filler.bin", b"\x00" * 2_000_000)
    return data.getvalue()


def a_tarball() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in (
            ("package/package.json", json.dumps({"name": "tiny", "version": "1.0.0", "main": "index.js"})),
            ("package/index.js", "module.exports = 42;\n"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def index(host: Host) -> None:
    """Make of `host` a package index for both languages."""
    wheel, tarball = a_wheel(), a_tarball()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()

    def answer(heard: Heard) -> tuple[str, Mapping[str, str], bytes]:
        base = f"https://{heard.headers['host']}"
        match heard.path:
            case "/simple/tiny/":
                digest = hashlib.sha256(wheel).hexdigest()
                link = f'<a href="{base}/tiny-1.0-py3-none-any.whl#sha256={digest}">tiny-1.0-py3-none-any.whl</a>'
                return "200 OK", {"content-type": "text/html"}, link.encode()
            case "/tiny-1.0-py3-none-any.whl":
                return "200 OK", {"content-type": "application/octet-stream"}, wheel
            case "/tiny":
                dist = {"tarball": f"{base}/tiny/-/tiny-1.0.0.tgz", "integrity": integrity}
                version = {"name": "tiny", "version": "1.0.0", "dist": dist}
                told = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
                return "200 OK", {"content-type": "application/json"}, json.dumps(told).encode()
            case "/tiny/-/tiny-1.0.0.tgz":
                return "200 OK", {"content-type": "application/octet-stream"}, tarball
            case _:
                return "404 Not Found", {}, b""

    host.answering = answer


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path, ["index.example"])


@pytest.fixture
async def host(authority: Authority) -> AsyncIterator[Host]:
    async with running(Host(), authority) as host:
        index(host)
        yield host


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def supervised(port: int) -> AsyncIterator[SandboxClient]:
    """The real supervisor, outside of any sandbox, whose outlet listens on `port`."""
    with tempfile.TemporaryDirectory(prefix="aet-", dir="/tmp") as folder:
        listener, token = socket.socket(socket.AF_UNIX), Path(folder) / "token"
        listener.bind(f"{folder}/door")
        listener.listen(64)
        token.write_text(TOKEN)
        roots = []
        for name in ("work", "tmp", "home"):
            (Path(folder) / name).mkdir()
            roots += ["--root", f"{name}={folder}/{name}"]
        with token.open("rb") as opened:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-B", str(INSIDE), "--listen-fd", str(listener.fileno()),
                "--token-fd", str(opened.fileno()), "--egress-port", str(port), *roots,
                pass_fds=(listener.fileno(), opened.fileno()), env={"PATH": "/usr/bin:/bin"},
            )  # fmt: skip
        listener.close()
        client = SandboxClient(dial_unix(f"{folder}/door"), TOKEN)
        try:
            yield client
        finally:
            await client.close()
            process.kill()
            await process.wait()


@asynccontextmanager
async def way_out(host: Host, authority: Authority) -> AsyncIterator[tuple[str, CountedMetrics]]:
    port, metrics = free_port(), CountedMetrics()
    outlets = EgressOutlets(
        online(Egress(allow=("index.example",), ports=(host.tls_port,))), FixedConnectors(), metrics,
        resolver=ScriptedResolver(index_example=["127.0.0.1"]), tls=authority.client, reach=Reach(allows_private=True),
    )  # fmt: skip
    async with supervised(port) as client:
        desk = outlets.open(a_sandbox(), client)
        assert desk is not None
        yield f"http://127.0.0.1:{port}", metrics
        await desk.close()
        await outlets.close()


async def finished(*argv: str, **environment: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *argv, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_pip_installs(host: Host, authority: Authority, tmp_path: Path) -> None:
    async with way_out(host, authority) as (proxy, metrics):

        async def pip(name: str, at: str) -> tuple[int | None, str]:
            return await finished(
                sys.executable, f"{PIP}/pip", "--isolated", "--proxy", proxy, "--cert", str(authority.file), "install",
                "--no-cache-dir", "--disable-pip-version-check", "--retries", "1", "--target", str(tmp_path / "installed"),
                "--index-url", at, name, HOME=str(tmp_path),
            )  # fmt: skip

        code, output = await pip("tiny", f"https://index.example:{host.tls_port}/simple/")
        assert code == 0, output
        assert (tmp_path / "installed" / "tiny.py").read_text() == "ANSWER = 42\n"
        assert metrics.counted["aether_egress_bytes,direction=down"] > 2000
        code, output = await pip("other", f"https://evil.example:{host.tls_port}/simple/")
        assert code != 0
        assert "403 host evil.example is not in the profile's allowlist. Allowed: index.example." in output


async def test_npm_installs(host: Host, authority: Authority, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    assert npm, "npm is needed here, as for the other tests with JavaScript"
    async with way_out(host, authority) as (proxy, _):
        code, output = await finished(
            npm, "install", "--prefix", str(tmp_path / "installed"), "--registry",
            f"https://index.example:{host.tls_port}/", "--cafile", str(authority.file), "--no-audit", "--no-fund",
            "--cache", str(tmp_path / "cache"), "--fetch-retries", "0", "tiny",
            HTTPS_PROXY=proxy, HTTP_PROXY=proxy, HOME=str(tmp_path),
        )  # fmt: skip
        assert code == 0, output
        assert (tmp_path / "installed" / "node_modules" / "tiny" / "index.js").read_text() == "module.exports = 42;\n"
