"""Tunnels: bytes passed on both ways, and the name a TLS client asks for checked before the first of them leaves."""

import asyncio
from collections.abc import Callable

from actors.sandbox.egress.hello import ALERT, Hello, HelloReader, NotHelloError, is_tls
from actors.sandbox.egress.links import Link
from actors.sandbox.egress.targets import HTTPS_PORT, Target
from serve_app.core.errors import EgressDeniedError, TimedOutError

_STEPS_IN_IDLE = 4


async def pass_through(
    inside: Link,
    outside: Link,
    target: Target,
    said: bytes,
    on_hello: Callable[[Hello], None],
    *,
    hello_s: float,
    idle_s: float,
) -> None:
    """Until both sides have ended, or nothing has moved for `idle_s`. `said`: what the program has sent already.

    On port 443 it has to be TLS for the tunnel's host. On other ports the first bytes decide: TLS is checked in the
    same way, anything else is passed on as it is. The host may speak first there, as SSH does.

    Raises `EgressDeniedError` when it is no TLS or TLS for another host, `TimedOutError`, and what the links raise.
    """
    flow = _Flow()

    async def upwards() -> None:
        if target.port == HTTPS_PORT:
            start = await _checked_start(inside, said, target, on_hello, hello_s)
        else:
            start = said or await inside.read()
            if start and is_tls(start):
                start = await _checked_start(inside, start, target, on_hello, hello_s)
        if start:
            await outside.write(start)
            await flow.pump(inside, outside)
        else:
            outside.end()

    ways = [asyncio.create_task(upwards()), asyncio.create_task(flow.pump(outside, inside))]
    try:
        await flow.until_done(ways, idle_s)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _checked_start(
    inside: Link, said: bytes, target: Target, on_hello: Callable[[Hello], None], hello_s: float
) -> bytes:
    """Everything up to the end of the hello, and what came with it. Nothing, when nothing was sent at all."""
    reader = HelloReader()
    start = bytearray(said)
    try:
        async with asyncio.timeout(hello_s):
            hello = reader.feed(said)
            while hello is None:
                data = await inside.read()
                if not data and not start:
                    return b""
                if not data:
                    raise NotHelloError("it ends in the middle of the TLS hello")
                start += data
                hello = reader.feed(data)
    except TimeoutError:
        raise TimedOutError("The TLS hello did not come in time.") from None
    except NotHelloError as exc:
        raise EgressDeniedError(
            f"The tunnel to {target.host}, port {target.port}, is for TLS: {exc}.", reason="not_tls"
        ) from None
    on_hello(hello)
    if hello.name != target.host:
        await inside.write(ALERT)
        asked = "no name" if hello.name is None else "another name"
        raise EgressDeniedError(f"The tunnel leads to {target.host}, and TLS asks for {asked}.", reason="sni")
    return bytes(start)


class _Flow:
    def __init__(self) -> None:
        self._pieces = 0

    async def pump(self, source: Link, sink: Link) -> None:
        while data := await source.read():
            self._pieces += 1
            await sink.write(data)
            self._pieces += 1
        sink.end()

    async def until_done(self, ways: list[asyncio.Task[None]], idle_s: float) -> None:
        """A look now and then, not a timer for each piece: tunnels carry most of the bytes."""
        step_s, steps, seen = idle_s / _STEPS_IN_IDLE, 0, self._pieces
        waiting = set(ways)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=step_s, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
            steps = 0 if done or self._pieces != seen else steps + 1
            seen = self._pieces
            if steps >= _STEPS_IN_IDLE:
                return
