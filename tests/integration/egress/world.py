"""A small outside world for the proxy: hosts with certificates of a test's own, and a sandbox whose door is a port."""

import asyncio
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from actors.sandbox.egress.conversation import Bounds
from actors.sandbox.egress.desk import EgressDesk
from actors.sandbox.egress.links import StreamLink
from actors.sandbox.egress.names import Resolver
from actors.sandbox.egress.outlets import EgressOutlets
from configs.sandboxes import Egress, Profile, Profiles
from serve_app.core.clock import SystemClock
from serve_app.core.domain.addresses import Reach
from serve_app.core.domain.connectors import OpenedConnector
from serve_app.core.domain.ids import new_org_id, new_sandbox_id, new_user_id
from serve_app.core.domain.sandboxes import Sandbox, SandboxState
from tests.unit.actors.sandbox.egress.doubles import CountedMetrics, FixedConnectors, QueuedOffers, ScriptedResolver


@dataclass(frozen=True)
class Authority:
    """Who signs the certificates of this world."""

    file: Path
    """Its own certificate, for clients to trust."""
    server: ssl.SSLContext
    client: ssl.SSLContext


def make_authority(folder: Path, names: Sequence[str]) -> Authority:
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)

    def signed(subject: str, public: ec.EllipticCurvePublicKey, extensions: Sequence[x509.ExtensionType]) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, server_key = folder / "authority.pem", ec.generate_private_key(ec.SECP256R1())
    authority.write_bytes(signed("authority", key.public_key(), [x509.BasicConstraints(ca=True, path_length=None)]))
    chain = folder / "server.pem"
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    chain.write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + signed("server", server_key.public_key(), [alternatives])
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    return Authority(authority, server, ssl.create_default_context(cafile=str(authority)))


@dataclass(frozen=True)
class Heard:
    """One request as a host heard it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Answering = Callable[[Heard], tuple[str, Mapping[str, str], bytes]]


def echo(heard: Heard) -> tuple[str, Mapping[str, str], bytes]:
    told = {"method": heard.method, "path": heard.path, "headers": dict(heard.headers), "body": heard.body.decode()}
    return "200 OK", {"content-type": "application/json"}, json.dumps(told).encode()


@dataclass
class Host:
    """Speaks HTTP/1.1 on two ports, plain and TLS, and keeps connections open."""

    answering: Answering = echo
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    tls_port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while heard := await self._hear(reader):
                self.heard.append(heard)
                status, headers, body = self.answering(heard)
                lines = [f"HTTP/1.1 {status}", *(f"{key}: {value}" for key, value in headers.items())]
                head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode()
                writer.write(head + (b"" if heard.method == "HEAD" else body))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _hear(self, reader: asyncio.StreamReader) -> Heard | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        elif length := int(headers.get("content-length", 0)):
            body = await reader.readexactly(length)
        return Heard(method, path, headers, body)


@asynccontextmanager
async def running(host: Host, authority: Authority) -> AsyncIterator[Host]:
    plain = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    tls = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=authority.server)
    host.port, host.tls_port = (server.sockets[0].getsockname()[1] for server in (plain, tls))
    async with plain, tls:
        yield host
        plain.close()
        tls.close()


@dataclass
class World:
    """One sandbox's way out. A program connects to `proxy`."""

    desk: EgressDesk
    outlets: EgressOutlets
    metrics: CountedMetrics
    resolver: Resolver
    sandbox: Sandbox
    offers: QueuedOffers
    port: int = 0

    @property
    def proxy(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def a_sandbox(profile: str = "online") -> Sandbox:
    now = SystemClock().now()
    return Sandbox(
        id=new_sandbox_id(), org_id=new_org_id(), user_id=new_user_id(), session_id=None, profile=profile,
        state=SandboxState.RUNNING, fence=1, lease=None, node_id=None, snapshot_id=None, services=(), created_at=now, active_at=now,
        ended_at=None, end_reason=None,
    )  # fmt: skip


def online(egress: Egress, *, may_use_connectors: bool = True) -> Profiles:
    profile = Profile(id="online", egress=egress, may_use_connectors=may_use_connectors)
    return Profiles(default="online", profiles=(profile,))


@asynccontextmanager
async def world(
    egress: Egress,
    authority: Authority,
    *connectors: OpenedConnector,
    resolver: Resolver | None = None,
    reach: Reach | None = None,
    bounds: Bounds | None = None,
    may_use_connectors: bool = True,
) -> AsyncIterator[World]:
    metrics, offers = CountedMetrics(), QueuedOffers()
    resolver = resolver or ScriptedResolver(
        **{name: ["127.0.0.1"] for name in ("a_example", "b_example", "api_example", "dead_example")}
    )
    outlets = EgressOutlets(
        online(egress, may_use_connectors=may_use_connectors), FixedConnectors(*connectors), metrics,
        resolver=resolver, tls=authority.client, reach=reach or Reach(allows_private=True), bounds=bounds,
    )  # fmt: skip
    sandbox = a_sandbox()
    desk = outlets.open(sandbox, offers)
    assert desk is not None

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        offers.waiting.put_nowait(StreamLink(reader, writer))

    door = await asyncio.start_server(connected, "127.0.0.1", 0)
    here = World(desk, outlets, metrics, resolver, sandbox, offers, door.sockets[0].getsockname()[1])
    async with door:
        yield here
        await desk.close()
        await outlets.close()


def allowing(host: Host, *names: str, **more: int) -> Egress:
    """A profile's egress to these names, on the ports that `host` has."""
    return Egress.model_validate(
        {"allow": names or ("a.example", "b.example"), "ports": (443, 80, host.port, host.tls_port), **more}
    )


def client(here: World, authority: Authority) -> httpx.AsyncClient:
    return httpx.AsyncClient(proxy=here.proxy, verify=authority.client, timeout=10, trust_env=False)


async def said(here: World, text: bytes, *, seconds: float = 1) -> bytes:
    """What the proxy answers to these bytes until it closes, or has been silent for `seconds`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    writer.write(text)
    answer = b""
    try:
        while True:
            async with asyncio.timeout(seconds):
                data = await reader.read(65536)
            answer += data
            if not data:
                return answer
    except TimeoutError:
        return answer
    finally:
        writer.close()
