"""The door that hands its clients in: each arrives whole, in order, and none is kept."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.sandbox.ray.passed import PassedDoor


@pytest.fixture
async def opened(short_dir: Path) -> AsyncIterator[tuple[PassedDoor, socket.socket]]:
    door = PassedDoor(short_dir / f"passed-{os.urandom(3).hex()}")
    inside = door.open()
    inside.setblocking(False)
    with inside:
        yield door, inside
        door.close()
    assert not door.path.exists()


async def client_of(door: PassedDoor) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, str(door.path))
    return client


async def next_inside(inside: socket.socket) -> socket.socket:
    async with asyncio.timeout(5):
        while True:
            try:
                byte, descriptors, _, _ = socket.recv_fds(inside, 1, 1)
            except BlockingIOError:
                await asyncio.sleep(0.001)
                continue
            assert byte == b"\0"
            [descriptor] = descriptors
            return socket.socket(fileno=descriptor)


async def test_a_client_speaks_with_the_inside_directly(opened: tuple[PassedDoor, socket.socket]) -> None:
    door, inside = opened
    loop = asyncio.get_running_loop()
    with await client_of(door) as client, await next_inside(inside) as served:
        served.setblocking(False)
        await loop.sock_sendall(client, b"question")
        assert await loop.sock_recv(served, 100) == b"question"
        await loop.sock_sendall(served, b"answer")
        assert await loop.sock_recv(client, 100) == b"answer"
        served.close()
        assert await loop.sock_recv(client, 100) == b""


async def test_many_wait_until_they_are_taken(opened: tuple[PassedDoor, socket.socket]) -> None:
    door, inside = opened
    clients = [await client_of(door) for _ in range(100)]
    for number, client in enumerate(clients):
        client.send(bytes([number]))
    for number in range(100):
        with await next_inside(inside) as served:
            served.settimeout(5)
            assert served.recv(1) == bytes([number])
    for client in clients:
        client.close()


async def test_when_the_inside_is_gone_clients_are_sent_away(opened: tuple[PassedDoor, socket.socket]) -> None:
    door, inside = opened
    inside.close()
    with await client_of(door) as client:
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    assert not door.path.exists()
