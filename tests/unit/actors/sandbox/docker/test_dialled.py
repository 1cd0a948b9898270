"""The door of sandboxes that dial out: pairing, its bounds, half-close, back-pressure and who may offer."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.sandbox.docker.dialled import DialledDoor


@dataclass
class Doors:
    """Both ends of a door, as blocking sockets of a thread would see them."""

    door: DialledDoor
    folder: Path
    opened: ExitStack

    async def client(self) -> socket.socket:
        return await self._connect("door")

    async def dial(self) -> socket.socket:
        return await self._connect("dial")

    async def _connect(self, name: str) -> socket.socket:
        one = self.opened.enter_context(socket.socket(socket.AF_UNIX))
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, str(self.folder / name))
        return one


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def doors(short_dir: Path, opened: ExitStack) -> AsyncIterator[Doors]:
    folder = short_dir / f"dialled-{os.urandom(3).hex()}"
    folder.mkdir()
    door = DialledDoor(folder / "door", folder / "dial")
    door.open()
    door.trust(os.getpid())
    yield Doors(door, folder, opened)
    door.close()
    assert list(folder.iterdir()) == []


async def receive(one: socket.socket, most: int = 65536) -> bytes:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(one, most)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def until_offers(door: DialledDoor, count: int) -> None:
    async with asyncio.timeout(5):
        while door.offers != count:
            await asyncio.sleep(0.001)


async def test_a_client_and_an_offer_are_joined_whoever_comes_first(doors: Doors) -> None:
    loop = asyncio.get_running_loop()
    early_client = await doors.client()
    await loop.sock_sendall(early_client, b"hello")
    inside = await doors.dial()
    assert await receive(inside) == b"hello"
    await loop.sock_sendall(inside, b"answer")
    assert await receive(early_client) == b"answer"

    other_inside = await doors.dial()
    await until_offers(doors.door, 1)
    late_client = await doors.client()
    await loop.sock_sendall(late_client, b"again")
    assert await receive(other_inside) == b"again"


async def test_each_direction_ends_by_itself(doors: Doors) -> None:
    loop = asyncio.get_running_loop()
    client, inside = await doors.client(), await doors.dial()
    await loop.sock_sendall(client, b"question")
    client.shutdown(socket.SHUT_WR)
    assert [await receive(inside), await receive(inside)] == [b"question", b""]
    await loop.sock_sendall(inside, b"late answer")
    inside.close()
    assert [await receive(client), await receive(client)] == [b"late answer", b""]
    assert doors.door.splices == 0


async def test_a_client_that_leaves_ends_the_connection_inside(doors: Doors) -> None:
    client, inside = await doors.client(), await doors.dial()
    await asyncio.get_running_loop().sock_sendall(client, b"x")
    assert await receive(inside) == b"x"
    client.close()
    assert await receive(inside) == b""
    assert doors.door.splices == 0


async def test_who_only_half_closed_and_left_later_is_noticed(doors: Doors) -> None:
    client, inside = await doors.client(), await doors.dial()
    client.shutdown(socket.SHUT_WR)
    assert await receive(inside) == b""
    assert doors.door.splices == 1
    client.close()
    doors.door._look_for_half_open()
    assert doors.door.splices == 0


async def test_many_bytes_arrive_whole_and_a_slow_reader_holds_them_back(doors: Doors) -> None:
    loop = asyncio.get_running_loop()
    client, inside = await doors.client(), await doors.dial()
    content = os.urandom(1024 * 1024) * 16
    sending = asyncio.create_task(loop.sock_sendall(inside, content))
    await asyncio.sleep(0.1)
    assert not sending.done()
    received = bytearray()
    while len(received) < len(content):
        received += await receive(client, 1024 * 1024)
    await sending
    assert received == content


async def test_a_flood_of_offers_waits_in_the_kernel(doors: Doors) -> None:
    descriptors = open_descriptors()
    dialled = [doors.opened.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(64)]
    refused = 0
    for one in dialled:
        one.setblocking(False)
        try:
            one.connect(str(doors.folder / "dial"))
        except BlockingIOError:
            refused += 1
        await asyncio.sleep(0)
    await until_offers(doors.door, 16)
    await asyncio.sleep(0.05)
    assert doors.door.offers == 16
    assert refused > 20
    assert open_descriptors() <= descriptors + 64 + 16


async def test_an_offer_that_speaks_first_or_leaves_is_dropped(doors: Doors) -> None:
    leaving, speaking = await doors.dial(), await doors.dial()
    await until_offers(doors.door, 2)
    leaving.close()
    await asyncio.get_running_loop().sock_sendall(speaking, b"trust me")
    await until_offers(doors.door, 0)


async def test_only_the_trusted_process_may_offer(doors: Doors) -> None:
    doors.door.trust(1)
    stranger = await doors.dial()
    assert await receive(stranger) == b""
    assert doors.door.offers == 0


async def test_dialling_and_leaving_again_and_again_is_slowed_down(doors: Doors) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.5
    made = 0
    while loop.time() < end:
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        try:
            one.connect(str(doors.folder / "dial"))
            made += 1
        except BlockingIOError:
            await asyncio.sleep(0.005)
        one.close()
        await asyncio.sleep(0)
    assert made <= 500 + 17


async def test_nothing_is_paired_before_somebody_is_trusted(short_dir: Path) -> None:
    folder = short_dir / "untrusting"
    folder.mkdir()
    door = DialledDoor(folder / "door", folder / "dial")
    door.open()
    with socket.socket(socket.AF_UNIX) as inside:
        inside.connect(str(folder / "dial"))
        await asyncio.sleep(0.02)
        assert door.offers == 0
        door.trust(os.getpid())
        await until_offers(door, 1)
    door.close()


def test_a_path_too_long_for_a_socket_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="shorter run folder"):
        DialledDoor(Path("/tmp") / ("x" * 120), Path("/tmp/dial"))
