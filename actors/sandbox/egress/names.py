"""Names to addresses that may be connected to, resolved by us and remembered for a short while.

A name counts as a whole: when one of its addresses may not be reached, the name is refused, also where the others might
be. Connecting only to the good ones would be as safe, because exactly the judged address is connected to and never
resolved again; but an answer that mixes both is an attack (rebinding) or a mistake, and somebody should hear of it.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from actors.sandbox.egress.errors import HostFailedError
from serve_app.core.clock import Clock
from serve_app.core.domain.addresses import Address, Reach, parsed
from serve_app.core.errors import EgressDeniedError, TimedOutError

_THREADS = 16
_MOST_ADDRESSES = 16
_MOST_REMEMBERED = 2048
_KEPT_S = 30.0
_FAILURE_KEPT_S = 2.0


class Resolver(Protocol):
    """Asks the name servers. Closed by whoever made it."""

    async def resolve(self, host: str) -> Sequence[str]:
        """Its addresses as text, best first. Raises `OSError` when it has none."""
        ...

    def close(self) -> None: ...


class SystemResolver:
    """The machine's own resolver, with its hosts file, in threads of its own: it cannot be interrupted."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="egress-names")

    async def resolve(self, host: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
        return [str(address[0]) for *_, address in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str | int, ...]]]:
    found: Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str | int, ...]]]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)  # type: ignore[assignment]  # typeshed adds a form that has bytes, of builds without IPv6
    return found


@dataclass(frozen=True)
class _Answer:
    """Either addresses, or words why there are none: an exception kept here would grow with every raise."""

    until: float
    addresses: tuple[Address, ...] = ()
    denied: str = ""
    failed: str = ""


class Names:
    """Judged addresses of names, shared by all sandboxes of a pool. One question at a time is asked about one name."""

    def __init__(self, resolver: Resolver, reach: Reach, clock: Clock, *, timeout_s: float) -> None:
        self._resolver = resolver
        self._reach = reach
        self._clock = clock
        self._timeout_s = timeout_s
        self._remembered: OrderedDict[str, _Answer] = OrderedDict()
        self._asked: dict[str, asyncio.Task[_Answer]] = {}

    async def addresses(self, host: str, turns: asyncio.Semaphore) -> tuple[Address, ...]:
        """At least one. `turns` are the asker's: it keeps one until the resolver has answered, however late that is,
        so that one sandbox cannot take all of the resolver's threads.

        Raises:
            EgressDeniedError: it has an address that may not be reached.
            HostFailedError: there is no such name.
            TimedOutError: the name servers did not answer in time.
        """
        answer = self._remembered.get(host)
        if answer is None or answer.until <= self._clock.monotonic():
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await asyncio.shield(await self._question(host, turns))
            except TimeoutError:
                raise TimedOutError(f"host {host}: the name servers did not answer in time. Try again.") from None
        if answer.denied:
            raise EgressDeniedError(answer.denied, reason="address")
        if answer.failed:
            raise HostFailedError(answer.failed)
        return answer.addresses

    async def _question(self, host: str, turns: asyncio.Semaphore) -> asyncio.Task[_Answer]:
        if (asked := self._asked.get(host)) is not None:
            return asked
        await turns.acquire()
        if (asked := self._asked.get(host)) is not None:
            turns.release()
            return asked
        question = self._asked[host] = asyncio.create_task(self._ask(host), name=f"egress-name-{host}")

        def answered(_task: asyncio.Task[_Answer]) -> None:
            turns.release()
            del self._asked[host]

        question.add_done_callback(answered)
        return question

    async def _ask(self, host: str) -> _Answer:
        try:
            texts = await self._resolver.resolve(host)
        except (OSError, UnicodeError):
            texts = ()
        answer = self._judged(host, texts)
        self._remembered[host] = answer
        self._remembered.move_to_end(host)
        while len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return answer

    def _judged(self, host: str, texts: Sequence[str]) -> _Answer:
        now = self._clock.monotonic()
        addresses = [address for text in texts if (address := parsed(text)) is not None]
        if not addresses or len(addresses) < len(texts):
            return _Answer(now + _FAILURE_KEPT_S, failed=f"host {host} does not resolve: there is no such name.")
        # All of them are judged, also those that are too many to be tried.
        if self._reach.first_refused(addresses) is not None:
            # Which one is not said: what a name means inside the platform's network is not the sandbox's business.
            denied = f"host {host} resolves to an address that is not on the public internet."
            return _Answer(now + _FAILURE_KEPT_S, denied=denied)
        return _Answer(now + _KEPT_S, tuple(addresses[:_MOST_ADDRESSES]))

    async def close(self) -> None:
        for question in list(self._asked.values()):
            question.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        self._resolver.close()
