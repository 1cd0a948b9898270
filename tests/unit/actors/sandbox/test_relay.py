"""Raw connections and the relay: bytes both ways, half-closes, and callers who prove nothing."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from actors.sandbox.door.client import SandboxClient
from actors.sandbox.door.dialling import dial_door, dial_relay, dial_unix
from actors.sandbox.door.duplex import Duplex, splice
from actors.sandbox.door.relay import Relay
from serve_app.core.domain.ids import SandboxId, new_sandbox_id
from serve_app.core.domain.sandboxes import Door
from serve_app.core.errors import SandboxLostError, UnavailableError
from tests.unit.actors.sandbox.peer import TOKEN, Inside, Json, Peer, scripted

SANDBOX = new_sandbox_id()


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with scripted() as inside:
        inside.script = _script
        yield inside


async def _script(peer: Peer, request: Json) -> None:
    """Port 7 answers with all it was sent, backwards, once the other side has ended."""
    if request["op"] == "ping":
        peer.result(uptime_s=1, connections=1)
    elif request["op"] == "tunnel":
        peer.result(raw=request["port"] == 7)
        if request["port"] == 7:
            peer.writer.write((await peer.reader.read())[::-1])
        await peer.writer.drain()
        peer.writer.write_eof()
        await peer.gone()


def _relay(inside: Inside, **options: float) -> Relay:
    def admits(sandbox_id: str, token: str) -> Path | None:
        return Path(inside.path) if (sandbox_id, token) == (SANDBOX, TOKEN) else None

    return Relay(admits, hello_limit_s=options.get("hello_limit_s", 5.0), most_callers=int(options.get("most", 100)))


def _client(address: str, *, token: str = TOKEN, sandbox_id: SandboxId = SANDBOX) -> SandboxClient:
    return SandboxClient(dial_relay(address, sandbox_id, token), token, answer_timeout_s=5)


async def test_a_tunnel_half_closes(inside: Inside) -> None:
    client = inside.client()
    async with await client.tunnel(7) as tunnel:
        await tunnel.write(b"abc")
        tunnel.end()
        assert await tunnel.read(5) == b"cba"
        assert await tunnel.read(5) == b""
        assert client.is_busy
    await tunnel.wait_closed()
    assert not client.is_busy
    with pytest.raises(SandboxLostError):
        await tunnel.write(b"late")
    await client.close()


async def test_a_tunnel_is_spliced_with_another_connection(inside: Inside, short_dir: Path) -> None:
    """What comes early, each half-close and the end of both pass through, and a slow reader loses nothing."""
    sent = bytes(range(256)) * 20_000
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def browser(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.write_eof()
        await asyncio.sleep(0.05)
        got.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_unix_server(browser, short_dir / "browser")
    client = inside.client()
    connection = await dial_unix(str(short_dir / "browser"))()
    connection.become_raw()
    spliced = await asyncio.wait_for(splice(Duplex(connection), await client.tunnel(7)), 10)
    assert await got == sent[::-1]
    assert (spliced.forth, spliced.back) == (len(sent), len(sent))
    await connection.wait_closed()
    server.close()
    await client.close()


async def test_a_splice_ends_when_nothing_moves_or_the_meter_says_so(inside: Inside) -> None:
    client = inside.client()
    one, other = await client.tunnel(7), await client.tunnel(7)
    await asyncio.wait_for(splice(one, other, idle_s=0.1), 5)
    one, other = await client.tunnel(7), await client.tunnel(7)
    one.end()
    assert (await asyncio.wait_for(splice(one, other, meter=lambda _: False), 5)).back == 0
    await client.close()


async def test_a_relay_leads_to_the_door(inside: Inside) -> None:
    relay = _relay(inside)
    client = _client(await relay.start("127.0.0.1"))
    for _ in range(3):
        assert (await client.ping()).connections == 1
    async with await client.tunnel(7) as tunnel:
        await tunnel.write(bytes(range(256)) * 10_000)
        tunnel.end()
        got = b""
        while piece := await tunnel.read(5):
            got += piece
        assert got == (bytes(range(256)) * 10_000)[::-1]
    await client.close()
    await relay.close()


@pytest.mark.parametrize(("token", "sandbox_id"), [("f" * 32, SANDBOX), (TOKEN, new_sandbox_id())])
async def test_a_relay_admits_nobody_without_the_lease(inside: Inside, token: str, sandbox_id: SandboxId) -> None:
    relay = _relay(inside)
    client = _client(await relay.start("127.0.0.1"), token=token, sandbox_id=sandbox_id)
    with pytest.raises(SandboxLostError):
        await client.ping()
    assert client.is_lost
    assert not inside.hellos
    await client.close()
    await relay.close()


@pytest.mark.parametrize(
    "line",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 10_000, b"AETHER-RELAY 2 a b\n", b"AETHER-RELAY 1 a\n", b"\xff\xfe\n"],
)
async def test_a_relay_refuses_what_is_no_greeting(inside: Inside, line: bytes) -> None:
    relay = _relay(inside, hello_limit_s=0.2)
    host, _, port = (await relay.start("127.0.0.1")).partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(line)
    assert len(await asyncio.wait_for(reader.read(), 5)) < 200
    writer.close()
    await relay.close()
    assert not inside.peers


async def test_a_relay_serves_so_many_and_no_more(inside: Inside) -> None:
    relay = _relay(inside, most=1)
    address = await relay.start("127.0.0.1")
    first, second = _client(address), _client(address)
    await first.ping()
    with pytest.raises(SandboxLostError):
        await second.ping()
    await first.close()
    await second.close()
    await relay.close()


async def test_a_relay_speaks_tls(inside: Inside, tmp_path: Path) -> None:
    certificate = _certificate(tmp_path)
    server, caller = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=certificate)
    server.load_cert_chain(certificate)
    relay = Relay(lambda _sandbox_id, _token: Path(inside.path), tls=server)
    door = Door("other-node", "/nowhere", TOKEN, await relay.start("127.0.0.1"))
    client = SandboxClient(dial_door(door, SANDBOX, "this-node", caller), TOKEN, answer_timeout_s=5)
    for _ in range(3):
        assert (await client.ping()).uptime_s == 1
    plain = _client(door.relay or "")
    with pytest.raises(SandboxLostError):
        await plain.ping()
    await plain.close()
    await client.close()
    await relay.close()


async def test_the_shortest_way_is_taken(inside: Inside) -> None:
    here = Door("node", inside.path, TOKEN)
    client = SandboxClient(dial_door(here, SANDBOX, "node"), TOKEN)
    await client.ping()
    await client.close()
    with pytest.raises(UnavailableError):
        dial_door(here, SANDBOX, "another")


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "node.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
