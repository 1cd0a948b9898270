"""Connections to providers: kept, lost, waited for, left, encrypted, and refused by address."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from configs.catalog import Timeouts
from serve_app.core.errors import InvalidRequestError, ProviderError, TimedOutError
from serve_app.router.upstream import Upstream
from tests.doubles.scripted import (
    BOUNDS,
    OK,
    QUICK,
    USUAL,
    Provider,
    Script,
    answer,
    ask,
    keeping,
    playing,
    saying,
    streamed,
)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream(BOUNDS)
    yield made
    await made.close()


async def test_a_stale_connection_is_tried_once_more_on_a_new_one(upstream: Upstream) -> None:
    """The provider closes it as the next request comes, without a word."""

    def of(provider: Provider) -> Script:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await provider.read_request(reader)
            writer.write(OK)
            await writer.drain()
            if provider.connections == 1:
                await provider.read_request(reader)

        return play

    async with playing(of) as provider:
        assert await answer(upstream, provider.url) == b"{}"
        assert await answer(upstream, provider.url) == b"{}"
    assert provider.connections == 2
    assert len(provider.asked) == 3


async def test_a_new_connection_that_says_nothing_is_not_tried_again(upstream: Upstream) -> None:
    async with playing(saying()) as provider:
        with pytest.raises(ProviderError, match="before it answered"):
            await answer(upstream, provider.url)
    assert provider.connections == 1


async def test_half_an_answer_on_a_kept_connection_is_not_asked_for_again(upstream: Upstream) -> None:
    async with playing(keeping(OK, b"HTTP/1.1 200 OK\r\nconte")) as provider:
        assert await answer(upstream, provider.url) == b"{}"
        with pytest.raises(ProviderError):
            await answer(upstream, provider.url)
    assert len(provider.asked) == 2


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged", b"x"])
async def test_what_nobody_asked_for_reaches_nobody(upstream: Upstream, more: bytes) -> None:
    """An answer behind the answer would be taken for the next request's."""
    async with playing(keeping(OK + more, OK)) as provider:
        assert await answer(upstream, provider.url) == b"{}"
        await asyncio.sleep(0.05)
        assert await answer(upstream, provider.url) == b"{}"
    async with playing(saying(OK, more, pause_s=0.05)) as provider:
        assert await answer(upstream, provider.url) == b"{}"
        await asyncio.sleep(0.1)
        assert await answer(upstream, provider.url) == b"{}"
        assert provider.connections == 2


async def test_connection_close_is_obeyed(upstream: Upstream) -> None:
    said = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    async with playing(keeping(said, said)) as provider:
        assert await answer(upstream, provider.url) == b"{}"
        assert await answer(upstream, provider.url) == b"{}"
    assert provider.connections == 2


async def test_silence_ends_at_each_deadline(upstream: Upstream) -> None:
    async def still(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3)

    async with playing(lambda _: still) as provider:
        with pytest.raises(TimedOutError):
            await ask(upstream, provider.url, QUICK)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with playing(saying(head, b"1\r\na\r\n", pause_s=0.6)) as provider:
        assert isinstance((await streamed(await ask(upstream, provider.url, QUICK)))[1], TimedOutError)
    drip = [b"1\r\na\r\n"] * 40
    briefly = Timeouts(connect=2, first_token=1, between_tokens=1, total=0.5)
    async with playing(saying(head, *drip, pause_s=0.05)) as provider:
        found, error = await streamed(await ask(upstream, provider.url, briefly))
    assert isinstance(error, TimedOutError)
    assert 3 < len(found) < 30


async def test_a_client_that_is_slow_is_not_the_providers_fault_and_holds_it_back(upstream: Upstream) -> None:
    sent = 0

    def of(provider: Provider) -> Script:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await provider.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 62914560\r\n\r\n")
            for _ in range(960):
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536

        return play

    async with playing(of) as provider:
        incoming = await ask(upstream, provider.url, QUICK)
        await asyncio.sleep(0.7)
        # Socket buffers, what one read may bring, and no more.
        assert sent < 16 * 2**20
        found, error = await streamed(incoming)
    assert len(found) <= BOUNDS.answer_bytes
    assert isinstance(error, ProviderError)
    assert not isinstance(error, TimedOutError)


async def test_leaving_in_the_middle_closes_the_connection(upstream: Upstream) -> None:
    gone = asyncio.Event()

    def of(provider: Provider) -> Script:
        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await provider.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            try:
                await reader.read()
            finally:
                gone.set()

        return play

    async with playing(of) as provider:
        incoming = await ask(upstream, provider.url)
        reading = asyncio.create_task(incoming.whole())
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        incoming.close()
        await asyncio.wait_for(gone.wait(), 2)
        gone.clear()
        provider.script = lambda reader, writer: _wait_for_end(reader, gone)
        asking = asyncio.create_task(ask(upstream, provider.url))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(gone.wait(), 2)


async def _wait_for_end(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    try:
        while await reader.read(65_536):
            pass
    finally:
        gone.set()


async def test_a_key_with_a_line_end_never_leaves(upstream: Upstream) -> None:
    async with playing(saying(OK)) as provider:
        with pytest.raises(ProviderError, match="authorization"):
            await upstream.open(provider.url, b"{}", [("authorization", "Bearer a\r\nx: 1")], USUAL, is_tenants=False)
    assert provider.connections == 0


@pytest.mark.parametrize(
    "url", ["http://", "ftp://h/x", "http://h:99999/", "http://h/a b", "http://h/\r\nx: 1", "nonsense"]
)
async def test_addresses_that_are_none(upstream: Upstream, url: str) -> None:
    with pytest.raises(ProviderError, match="not valid"):
        await ask(upstream, url)


async def test_nobody_there(upstream: Upstream) -> None:
    async with playing(saying(OK)) as provider:
        pass
    with pytest.raises(ProviderError, match="reached"):
        await ask(upstream, provider.url)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "169.254.169.254"]
)  # fmt: skip
async def test_an_organisations_provider_is_on_no_private_address(upstream: Upstream, host: str) -> None:
    async with playing(saying(OK)) as provider:
        with pytest.raises(InvalidRequestError, match="not a public one"):
            await upstream.open(f"http://{host}:{provider.port}/x", b"{}", [], QUICK, is_tenants=True)
    assert provider.connections == 0


@dataclass(frozen=True)
class Certificate:
    server: ssl.SSLContext
    trusting: ssl.SSLContext


def certificate(folder: Path, address: str, *, is_old: bool = False) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a provider")])
    now = dt.datetime.now(dt.UTC)
    until = now - dt.timedelta(days=1) if is_old else now + dt.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "public.pem", folder / "private.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(public, private)
    return Certificate(server, ssl.create_default_context(cafile=str(public)))


async def test_tls_with_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    made = certificate(tmp_path, "127.0.0.1")
    upstream = Upstream(BOUNDS, tls=made.trusting)
    async with playing(keeping(OK, OK), made.server) as provider:
        for _ in range(2):
            assert await answer(upstream, provider.url.replace("http:", "https:")) == b"{}"
    assert provider.connections == 1
    await upstream.close()


async def test_tls_with_a_certificate_that_is_not(tmp_path: Path, upstream: Upstream) -> None:
    made = certificate(tmp_path, "127.0.0.1")
    async with playing(saying(OK), made.server) as provider:
        with pytest.raises(ProviderError, match="not trusted"):
            await answer(upstream, provider.url.replace("http:", "https:"))
    for address, is_old in (("127.0.0.2", False), ("127.0.0.1", True)):
        made = certificate(tmp_path, address, is_old=is_old)
        trusting = Upstream(BOUNDS, tls=made.trusting)
        async with playing(saying(OK), made.server) as provider:
            with pytest.raises(ProviderError, match="not trusted"):
                await answer(trusting, provider.url.replace("http:", "https:"))
        await trusting.close()
    assert not provider.asked
