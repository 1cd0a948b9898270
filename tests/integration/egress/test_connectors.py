"""Calls to connectors: the secret goes out, and does not come in."""

import asyncio
from pathlib import Path

import httpx
import pytest

from configs.sandboxes import Egress
from serve_app.core.domain.addresses import Reach
from serve_app.core.domain.connectors import Connector, OpenedConnector
from tests.integration.egress.conftest import NAMES, SECRET
from tests.integration.egress.world import (
    Authority,
    Heard,
    Host,
    allowing,
    client,
    make_authority,
    said,
    world,
)


async def test_a_connector_adds_its_secret_and_keeps_it(host: Host, authority: Authority, git: OpenedConnector) -> None:
    async with world(allowing(host), authority, git) as here, client(here, authority) as program:
        for _ in range(3):
            answer = await program.post("http://git.connector/repos/x?y=1", content=b"b" * 500_000)
            told = answer.json()
            assert told["path"] == "/v3/repos/x?y=1"
            assert len(told["body"]) == 500_000
            assert told["headers"]["authorization"] == "Bearer " + "*" * len(SECRET), "echoed, and taken out"
        assert host.heard[0].headers["authorization"] == f"Bearer {SECRET.decode()}"
        assert host.heard[0].headers["host"] == f"api.example:{host.tls_port}"
        assert host.connections == 1, "one connection, kept"
        assert (await program.get("http://git.connector/admin")).status_code == 403
        assert (await program.delete("http://git.connector/repos")).status_code == 403
        assert (await program.get("http://other.connector/")).status_code == 403
        with pytest.raises(httpx.ProxyError, match="403 connectors are called in plain HTTP"):
            await program.get("https://git.connector/repos")
        assert len(host.heard) == 3


async def test_a_connector_through_a_tunnel(host: Host, authority: Authority, git: OpenedConnector) -> None:
    async with world(allowing(host), authority, git) as here:
        answer = await said(
            here,
            b"CONNECT git.connector:80 HTTP/1.1\r\nHost: git.connector:80\r\n\r\n"
            b"GET /repos HTTP/1.1\r\nHost: git.connector\r\nConnection: close\r\n\r\n",
        )
        assert b'"path": "/v3/repos"' in answer
        assert SECRET not in answer


async def test_a_connectors_redirect_is_not_followed(host: Host, authority: Authority, git: OpenedConnector) -> None:
    def elsewhere(heard: Heard) -> tuple[str, dict[str, str], bytes]:
        if heard.path == "/v3/repos/1":
            return (
                "302 Found",
                {"location": f"https://api.example:{host.tls_port}/v3/repos/2", "set-cookie": "a=b"},
                b"",
            )
        return "307 Temporary Redirect", {"location": "https://b.example/steal"}, b""

    host.answering = elsewhere
    async with world(allowing(host), authority, git) as here, client(here, authority) as program:
        answer = await program.get("http://git.connector/repos/1")
        assert answer.headers["location"] == "http://git.connector/repos/2"
        assert "set-cookie" not in answer.headers
        assert (await program.get("http://git.connector/repos/2")).headers["location"] == "https://b.example/steal"
    assert len(host.heard) == 2


async def test_a_connectors_host_must_prove_its_name(host: Host, authority: Authority, tmp_path: Path) -> None:
    git = OpenedConnector(Connector("git", f"https://dead.example:{host.tls_port}"), SECRET)
    async with world(allowing(host), authority, git) as here, client(here, authority) as program:
        answer = await program.get("http://git.connector/")
        assert answer.status_code == 502
        assert "certificate is not to be trusted" in answer.text
    stranger = make_authority(tmp_path, NAMES)
    git = OpenedConnector(Connector("git", f"https://api.example:{host.tls_port}"), SECRET)
    async with world(allowing(host), stranger, git) as here, client(here, authority) as program:
        assert (await program.get("http://git.connector/")).status_code == 502
    assert not host.heard


async def test_a_connectors_host_must_be_public_too(host: Host, authority: Authority, git: OpenedConnector) -> None:
    async with world(allowing(host), authority, git, reach=Reach()) as here, client(here, authority) as program:
        answer = await program.get("http://git.connector/repos")
        assert answer.status_code == 403
        assert "not on the public internet" in answer.text


async def test_a_profile_without_connectors(host: Host, authority: Authority, git: OpenedConnector) -> None:
    async with (
        world(allowing(host), authority, git, may_use_connectors=False) as here,
        client(here, authority) as program,
    ):
        answer = await program.get("http://git.connector/repos")
        assert answer.status_code == 403
        assert "may_use_connectors" in answer.text


async def test_a_secret_across_the_borders_of_pieces(authority: Authority) -> None:
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"<" + SECRET + b">"
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Echo: " + SECRET + b"\r\n\r\n")
        for byte in body:
            writer.write(b"1\r\n%c\r\n" % byte)
            await writer.drain()
            await asyncio.sleep(0.002)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(dripping, "127.0.0.1", 0, ssl=authority.server)
    git = OpenedConnector(Connector("git", f"https://api.example:{server.sockets[0].getsockname()[1]}"), SECRET)
    async with server, world(Egress(), authority, git) as here, client(here, authority) as program:
        answer = await program.get("http://git.connector/")
        assert answer.content == b"<" + b"*" * len(SECRET) + b">"
        assert answer.headers["x-echo"] == "*" * len(SECRET)
