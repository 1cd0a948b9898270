"""What is allowed works, as programs in a sandbox meet it, over real sockets."""

import asyncio
from collections.abc import AsyncIterator

from configs.sandboxes import Egress
from tests.integration.egress.world import (
    Authority,
    Host,
    World,
    client,
    said,
    world,
)
from tests.unit.actors.sandbox.egress.doubles import until


async def test_plain_http_with_bodies_both_ways_on_kept_connections(
    here: World, host: Host, authority: Authority
) -> None:
    async with client(here, authority) as program:
        for size in (0, 10, 3_000_000):
            answer = await program.post(f"http://a.example:{host.port}/x?y=1", content=b"b" * size)
            told = answer.json()
            assert (told["method"], told["path"], len(told["body"])) == ("POST", "/x?y=1", size)
            assert told["headers"]["host"] == f"a.example:{host.port}"

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"piece"

        assert (await program.put(f"http://a.example:{host.port}/", content=pieces())).json()["body"] == "piece" * 5
        assert (await program.head(f"http://a.example:{host.port}/")).status_code == 200
        upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQ"}
        told = (await program.get(f"http://a.example:{host.port}/", headers=upgrade)).json()
        assert not {"upgrade", "http2-settings", "connection"} & set(told["headers"])
    assert host.connections == 1
    assert here.metrics.counted["aether_egress_requests,kind=http,verdict=allowed"] == 6


async def test_tls_through_a_tunnel(here: World, host: Host, authority: Authority) -> None:
    async with client(here, authority) as program:
        for _ in range(2):
            answer = await program.post(f"https://a.example:{host.tls_port}/", content=b"b" * 1_000_000)
            assert len(answer.json()["body"]) == 1_000_000
    await until(lambda: here.desk.counters.requests == 1)
    assert here.desk.counters.up_bytes > 2_000_000
    assert here.desk.counters.down_bytes > 2_000_000
    assert here.desk.spent_bytes == here.desk.counters.up_bytes + here.desk.counters.down_bytes


async def test_a_tunnel_to_port_80_is_read_like_any_plain_http(authority: Authority) -> None:
    """Some clients tunnel plain HTTP too. Port 80 itself is not ours to listen on, so the dial fails, and says where."""
    async with world(Egress(allow=("a.example",)), authority) as here:
        answer = await said(
            here,
            b"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n"
            b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"
            b"GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n",
        )
        assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n")
        assert b"HTTP/1.1 502 host a.example, port 80: nothing listens there" in answer
        assert b"HTTP/1.1 403 The tunnel leads to a.example, not to b.example." in answer


async def test_redirects_are_the_programs_to_follow(here: World, host: Host, authority: Authority) -> None:
    host.answering = lambda heard: ("302 Found", {"location": "http://169.254.169.254/latest/meta-data/"}, b"")
    async with client(here, authority) as program:
        answer = await program.get(f"http://a.example:{host.port}/")
        assert answer.headers["location"] == "http://169.254.169.254/latest/meta-data/"
        answer = await program.get(f"http://a.example:{host.port}/", follow_redirects=True)
        assert answer.status_code == 403
        assert "egress_denied: '169.254.169.254' is an address" in answer.text


async def test_half_close_both_ways(authority: Authority) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        total = len(await reader.read())
        writer.write(b"%d" % total)
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    egress = Egress(allow=("a.example",), ports=(port,))
    async with server, world(egress, authority) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(f"CONNECT a.example:{port} HTTP/1.0\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        for _ in range(64):
            writer.write(b"x" * 65536)
            await writer.drain()
        writer.write_eof()
        assert await reader.read() == b"%d" % (64 * 65536)
        writer.close()


async def test_an_early_refusal_of_a_large_upload_comes_through(authority: Authority) -> None:
    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    server = await asyncio.start_server(refusing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, world(Egress(allow=("a.example",), ports=(port,)), authority) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(f"PUT http://a.example:{port}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n".encode())
        writer.write(b"x" * 100_000)
        assert (await reader.readuntil(b"big")).startswith(b"HTTP/1.1 413 Too Large\r\n")
        writer.close()
