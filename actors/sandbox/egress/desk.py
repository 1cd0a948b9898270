"""The desk of one sandbox: keeps offers open at its door, and serves whoever comes as long as there is a place."""

import asyncio
from collections.abc import Callable, Coroutine

from actors.sandbox.egress.conversation import Bounds, Conversation, Party, refuse
from actors.sandbox.egress.http1 import Asked
from actors.sandbox.egress.journal import Counters
from actors.sandbox.egress.links import Link, Offers
from serve_app.core.errors import AetherError, OverloadedError
from serve_app.core.telemetry import get_logger

_log = get_logger()
_SPARE = 4
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0


class EgressDesk:
    """Opened when it is made; whoever made it closes it. At most `places + 4` connections are open at one time."""

    def __init__(
        self, offers: Offers, party: Party, converse: Callable[[], Conversation], bounds: Bounds, *, places: int
    ) -> None:
        self._offers = offers
        self._party = party
        self._converse = converse
        self._bounds = bounds
        self._most = places
        self._places = asyncio.Semaphore(places)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        for number in range(_SPARE):
            self._spawn(self._clerk(), f"egress-clerk-{number}")

    @property
    def counters(self) -> Counters:
        return self._party.journal.counters

    @property
    def spent_bytes(self) -> int:
        return self._party.allowance.spent_bytes

    async def close(self) -> None:
        """Everything that is open is broken off."""
        self._is_closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _clerk(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._is_closed:
            try:
                link = await self._offers.egress_offer()
            except (AetherError, OSError):
                # The door is shut for a moment (a new holder, a freeze), or the pool is about to close this desk.
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                continue
            wait_s = _FIRST_WAIT_S
            await self._receive(link)

    async def _receive(self, link: Link) -> None:
        try:
            async with asyncio.timeout(self._bounds.place_s):
                await self._places.acquire()
        except TimeoutError:
            await self._turn_away(link)
            return
        except asyncio.CancelledError:
            link.close()
            raise
        serving = self._spawn(self._serve(link), "egress-conversation")

        def served(_task: asyncio.Task[None]) -> None:
            # Not a `finally` in the task: one that is cancelled before its first step never gets there.
            link.close()
            self._places.release()

        serving.add_done_callback(served)

    async def _serve(self, link: Link) -> None:
        try:
            await self._converse().hold(link)
        except Exception:  # noqa: BLE001 - one conversation that breaks must not end the others; it is told in the log
            _log.exception("egress conversation broke")

    async def _turn_away(self, link: Link) -> None:
        asked = Asked(link, most_head_bytes=self._bounds.head_bytes, idle_s=self._bounds.head_s)
        try:
            if await asked.request(self._bounds.head_s, self._bounds.head_s) is not None:
                await refuse(
                    asked,
                    OverloadedError(
                        f"This sandbox has {self._most} connections to the outside open, which is all its profile "
                        "allows. Close some, or try again."
                    ),
                )
        except (AetherError, OSError):
            pass  # it is turned away anyhow
        finally:
            link.close()
