"""Tunnels over links in memory: what leaves, what does not, and how they end."""

import asyncio

import pytest

from actors.sandbox.egress.hello import ALERT, Hello
from actors.sandbox.egress.targets import Target
from actors.sandbox.egress.tunnels import pass_through
from serve_app.core.errors import EgressDeniedError, TimedOutError
from tests.unit.actors.sandbox.egress.doubles import MemoryLink, pair
from tests.unit.actors.sandbox.egress.hellos import extension, hello, real_hello, server_name


class Opened:
    """A tunnel under way. `program` and `host` are the two far ends."""

    def __init__(self, port: int, said: bytes = b"", *, hello_s: float = 5, idle_s: float = 5) -> None:
        self.program, inside = pair()
        outside, self.host = pair()
        self.seen: list[Hello] = []
        self.task = asyncio.create_task(
            pass_through(
                inside, outside, Target("a.example", port), said, self.seen.append, hello_s=hello_s, idle_s=idle_s
            )
        )


async def next_of(link: MemoryLink) -> bytes:
    async with asyncio.timeout(5):
        return await link.read()


async def test_the_hello_leaves_when_its_name_is_the_tunnels() -> None:
    start = real_hello("A.example")
    tunnel = Opened(443, start[:10])
    await tunnel.program.write(start[10:50])
    await tunnel.program.write(start[50:] + b"more")
    assert await next_of(tunnel.host) == start + b"more"
    await tunnel.host.write(b"answer")
    assert await next_of(tunnel.program) == b"answer"
    tunnel.program.end()
    assert await next_of(tunnel.host) == b""
    await tunnel.host.write(b"after the half-close")
    tunnel.host.end()
    assert await tunnel.program.everything() == b"after the half-close"
    await tunnel.task
    assert tunnel.seen == [Hello("a.example", has_ech=False)]


@pytest.mark.parametrize("port", [443, 8443])
@pytest.mark.parametrize("start", [real_hello("b.example"), real_hello(None), hello(extension(0xFE0D, b""))])
async def test_another_name_never_leaves(port: int, start: bytes) -> None:
    tunnel = Opened(port, start[:1])
    await tunnel.program.write(start[1:])
    with pytest.raises(EgressDeniedError) as caught:
        await tunnel.task
    assert caught.value.details["reason"] == "sni"
    assert await next_of(tunnel.program) == ALERT
    assert tunnel.host._incoming.empty(), "nothing has left"


async def test_only_tls_leaves_on_443() -> None:
    tunnel = Opened(443, b"GET / HTTP/1.1\r\nHost: b.example\r\n\r\n")
    with pytest.raises(EgressDeniedError) as caught:
        await tunnel.task
    assert caught.value.details["reason"] == "not_tls"
    assert tunnel.host._incoming.empty()


async def test_a_hello_that_never_ends_is_given_up() -> None:
    tunnel = Opened(443, real_hello("a.example")[:100], hello_s=0.05)
    with pytest.raises(TimedOutError):
        await tunnel.task


async def test_a_hello_cut_short() -> None:
    tunnel = Opened(443, real_hello("a.example")[:100])
    tunnel.program.end()
    with pytest.raises(EgressDeniedError, match="in the middle"):
        await tunnel.task


async def test_a_program_that_says_nothing_is_no_offence() -> None:
    tunnel = Opened(443)
    tunnel.program.end()
    assert await next_of(tunnel.host) == b""
    tunnel.host.end()
    await tunnel.task


async def test_the_host_may_speak_first_on_other_ports() -> None:
    tunnel = Opened(22)
    await tunnel.host.write(b"SSH-2.0\r\n")
    assert await next_of(tunnel.program) == b"SSH-2.0\r\n"
    await tunnel.program.write(b"SSH-2.0-client\r\n")
    assert await next_of(tunnel.host) == b"SSH-2.0-client\r\n"
    tunnel.program.end()
    tunnel.host.end()
    await tunnel.task


async def test_an_idle_tunnel_ends_and_a_busy_one_does_not() -> None:
    tunnel = Opened(22, idle_s=0.2)
    for _ in range(6):
        await asyncio.sleep(0.1)
        await tunnel.host.write(b".")
    assert not tunnel.task.done()
    async with asyncio.timeout(2):
        await tunnel.task


async def test_a_host_that_breaks_off_ends_it() -> None:
    tunnel = Opened(443, hello(server_name(b"a.example")))
    await next_of(tunnel.host)
    tunnel.host.is_closed = True
    await tunnel.program.write(b"x")
    with pytest.raises(ConnectionResetError):
        await tunnel.task
