"""Bytes, connections and time that a sandbox may use, and what stays when it is gone."""

import asyncio
from pathlib import Path

import httpx
import pytest

from actors.sandbox.egress.conversation import Bounds
from tests.integration.egress.world import (
    Authority,
    Host,
    allowing,
    client,
    said,
    world,
)
from tests.unit.actors.sandbox.egress.doubles import until
from tests.unit.actors.sandbox.egress.hellos import real_hello


async def test_bytes_over_the_sandboxs_life(host: Host, authority: Authority) -> None:
    host.answering = lambda heard: ("200 OK", {}, b"x" * 400_000)
    async with world(allowing(host, bytes=1_000_000), authority) as here:
        async with client(here, authority) as program:
            for _ in range(2):
                assert len((await program.get(f"http://a.example:{host.port}/")).content) == 400_000
            with pytest.raises(httpx.RemoteProtocolError):
                await program.get(f"https://a.example:{host.tls_port}/")
            answer = await program.get(f"http://a.example:{host.port}/")
            assert answer.status_code == 403
            assert "egress.bytes" in answer.text
            with pytest.raises(httpx.ProxyError, match="403 This sandbox has used the 1000000 bytes"):
                await program.get(f"https://a.example:{host.tls_port}/")
        assert here.desk.spent_bytes == 1_000_000
        await here.desk.close()
        again = here.outlets.open(here.sandbox, here.offers)
        assert again is not None
        assert again.spent_bytes == 1_000_000, "a sandbox that comes back has what was left"
        await again.close()


async def test_connections_at_one_time(host: Host, authority: Authority) -> None:
    bounds = Bounds(place_s=0.2)
    async with world(allowing(host, connections=2), authority, bounds=bounds) as here:
        hello = f"CONNECT a.example:{host.port} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()
        held = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(2)]
        for reader, writer in held:
            writer.write(hello)
            await reader.readuntil(b"\r\n\r\n")
        answer = await said(here, hello)
        assert answer.startswith(b"HTTP/1.1 503 This sandbox has 2 connections to the outside open")
        waiting = asyncio.create_task(said(here, hello, seconds=0.5))
        held[0][1].close()
        await waiting
        assert host.connections == 3
        held[1][1].close()


async def test_a_flood_of_connections_is_served_in_the_end(host: Host, authority: Authority) -> None:
    async with world(allowing(host, connections=8), authority) as here:
        request = f"GET http://a.example:{host.port}/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
        answers = await asyncio.gather(*(said(here, request, seconds=30) for _ in range(100)))
        assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
        assert len(here.desk._tasks) <= 4 + 8


async def test_slow_and_silent_programs_lose_their_place(host: Host, authority: Authority) -> None:
    bounds = Bounds(head_s=0.2, keep_alive_s=0.2, idle_s=0.3, hello_s=0.2)
    async with world(allowing(host, connections=4), authority, bounds=bounds) as here:
        assert await said(here, b"") == b""
        assert (await said(here, b"GET http://a.exa")).startswith(b"HTTP/1.1 504 ")
        stalled = f"PUT http://a.example:{host.port}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab".encode()
        assert (await said(here, stalled)).startswith(b"HTTP/1.1 504 ")
        tunnel = f"CONNECT a.example:{host.tls_port} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        assert (await said(here, tunnel)).endswith(b"established\r\n\r\n")
        assert (await said(here, tunnel + real_hello("a.example")[:50])).endswith(b"established\r\n\r\n")
        await until(lambda: not here.desk._places.locked() and here.desk._places._value == 4)


async def test_a_program_that_never_reads_loses_its_place(host: Host, authority: Authority) -> None:
    host.answering = lambda heard: ("200 OK", {}, b"x" * 30_000_000)
    async with world(allowing(host, connections=1), authority, bounds=Bounds(idle_s=0.3)) as here:
        _reader, writer = await asyncio.open_connection("127.0.0.1", here.port, limit=1024)
        writer.write(f"GET http://a.example:{host.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await until(lambda: here.desk.counters.requests == 1)
        await until(lambda: not here.desk._places.locked())
        writer.close()


async def test_closing_ends_everything(host: Host, authority: Authority) -> None:
    async with world(allowing(host), authority) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(f"CONNECT a.example:{host.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await here.desk.close()
        assert await reader.read() == b""
        assert here.offers.open == 0
        assert not here.desk._tasks
        writer.close()


async def test_a_door_that_is_shut_for_a_moment(host: Host, authority: Authority) -> None:
    async with world(allowing(host), authority) as here:
        here.offers.failures += [ConnectionRefusedError()] * 3
        for _ in range(8):
            answer = await said(here, b"GET http://evil.example/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"403" in answer


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_desks_leave_nothing_behind(host: Host, authority: Authority) -> None:
    async with world(allowing(host), authority) as here:
        request = f"GET http://a.example:{host.port}/ HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        await said(here, request, seconds=0.1)
        await here.desk.close()
        tasks, descriptors = len(asyncio.all_tasks()), open_descriptors()
        for _ in range(20):
            desk = here.outlets.open(here.sandbox, here.offers)
            assert desk is not None
            writers = [(await asyncio.open_connection("127.0.0.1", here.port))[1] for _ in range(3)]
            for writer in writers:
                writer.write(request)
            await asyncio.sleep(0.01)
            await desk.close()
            for writer in writers:
                writer.close()
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: open_descriptors() <= descriptors)
