"""What a call may use and what it has cost: reserved before it starts, written to the ledger after it has ended.

Nobody waits for the ledger. A call waits for the limit store once, together with whoever else came in the meantime.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

import orjson

from serve_app.core.db.repositories.ledger import encode_entry
from serve_app.core.domain.ids import OrgId
from serve_app.core.domain.spending import Budget, Demand, LedgerEntry, Reservation, Scope, period_start
from serve_app.core.errors import (
    BudgetExceededError,
    MisconfiguredError,
    RateLimitedError,
    UnavailableError,
)
from serve_app.core.stores.limits.base import (
    Held,
    Limited,
    LimitStore,
    Reason,
    Spent,
    Taken,
    UnregisteredError,
    Unsettled,
    Verdict,
)
from serve_app.core.telemetry import get_logger
from serve_app.core.telemetry.metrics import Metrics

_DEMANDS, _ENDED, _ENTRIES = 64, 200, 500  # in one turn, in one turn, in one statement
_COMPANY_S = 0.005  # an ended call waits so long for a demand to travel with
_LEDGER_EVERY_S = 0.2
_BEAT_S = 1.0
_SWEEP_BEATS = 10
_RETRY_S, _LONGEST_RETRY_S = 0.1, 5.0
_CLOSE_S = 10.0
_LOADS = 20
_AWAY = (UnavailableError, MisconfiguredError)
_Asked = tuple[Held, Demand, "asyncio.Future[Verdict]"]


class Ledger(Protocol):
    """Where entries end up. `encode_entry` says how they look."""

    async def append(self, entries: Sequence[bytes]) -> int: ...

    async def spent(self, org_id: OrgId, scope: Scope, since: datetime, without: Sequence[str] = ()) -> int: ...


class Meter:
    """One a replica. `start` it before the first call; `close` writes what is left to write."""

    def __init__(self, store: LimitStore, ledger: Ledger, metrics: Metrics, *, most_held: int = 100_000) -> None:
        self._store = store
        self._ledger = ledger
        self._metrics = metrics
        self._most_held = most_held
        self._held: dict[str, Held] = {}
        """Granted, and not settled yet. What the store forgets it is told again from here."""
        self._waiting: deque[_Asked] = deque()
        self._asking: dict[str, Held] = {}
        self._ended: deque[Held] = deque()
        self._written: deque[Held] = deque()
        self._to_write: deque[Held] = deque()
        self._loading: dict[tuple[str, datetime], asyncio.Task[None]] = {}
        self._turns: asyncio.Task[None] | None = None
        self._company: asyncio.TimerHandle | None = None
        self._away_s = 0.0
        self._something_to_write = asyncio.Event()
        self._registering = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Registers with the store if it is there; otherwise later, and until then demands are refused."""
        with suppress(*_AWAY):
            await self._register()
        self._tasks = [
            asyncio.create_task(self._write_forever(), name="ledger"),
            asyncio.create_task(self._beat_forever(), name="meter's beat"),
        ]

    async def close(self) -> None:
        """Ends what it owns. What cannot be written now stays in the store, for another replica to take over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                while any(held.is_finished for held in self._held.values()):  # noqa: ASYNC110 - an event costs every call
                    await asyncio.sleep(_LEDGER_EVERY_S)
        if self._company:
            self._company.cancel()
        owned = [*self._tasks, *self._loading.values(), *([self._turns] if self._turns else [])]
        for task in owned:
            task.cancel()
        await asyncio.gather(*owned, return_exceptions=True)

    # --- before a call ---

    async def admit(self, demand: Demand) -> Reservation:
        """Take a place under all of the demand's limits and money from all of its budgets, or nothing at all.

        Raises:
            RateLimitedError: details `retry_after_s` (absent if waiting cannot help), `reason`, `scope`, `limit`,
                and `requests`, `tokens` (`Allowance` or None) for the headers.
            BudgetExceededError: details `budget`, `scope`.
            UnavailableError: the store is away, or too many ended calls wait to be written.
        """
        if len(self._held) >= self._most_held:
            raise UnavailableError("The ledger is behind. Try again.", retry_after_s=5)
        entry = demand.entry
        held = self._store.hold(demand, encode_entry(entry, is_abandoned=True) if entry else b"")
        for _ in range(_LOADS):
            match await self._ask(held, demand):
                case Reservation() as granted:
                    return granted
                case Limited() as limited:
                    self._metrics.count("aether_gateway_refused", reason=limited.reason.value)
                    raise _rate_limited(limited)
                case Spent(budget):
                    self._metrics.count("aether_gateway_refused", reason="budget")
                    raise BudgetExceededError(
                        f"What is left of the {budget.scope.kind}'s budget does not cover this request.",
                        budget=budget.id,
                        scope=budget.scope.kind,
                    )
                case unloaded:
                    await self._loaded(unloaded.budget, demand)
        raise UnavailableError("The budget cannot be read right now. Try again.", retry_after_s=1)

    async def _ask(self, held: Held, demand: Demand) -> Verdict:
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((held, demand, answer))
        self._take_turns()
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception() and held.id in self._held:
                self.release(Reservation(held.id))
            raise

    async def _loaded(self, budget: Budget, demand: Demand) -> None:
        """One load a budget and replica, whoever needs it."""
        if demand.entry is None:
            raise ValueError("a demand with budgets has an entry")
        at, org_id = demand.entry.at, demand.entry.org_id
        name = budget.id, period_start(budget.period, at)
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(budget, at, org_id), name="budget")
            task.add_done_callback(lambda ended: self._load_ended(name, ended))
        await asyncio.shield(task)

    def _load_ended(self, name: tuple[str, datetime], task: asyncio.Task[None]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # those who wait are told; there may be none left

    async def _load(self, budget: Budget, at: datetime, org_id: OrgId) -> None:
        with suppress(UnregisteredError):  # the demand, asked again, registers
            unsettled = await self._store.unsettled(budget, at)
            while not isinstance(unsettled, Unsettled):
                await asyncio.sleep(unsettled)
                unsettled = await self._store.unsettled(budget, at)
            spent = await self._ledger.spent(org_id, budget.scope, period_start(budget.period, at), unsettled.ids)
            await self._store.load(budget, at, spent, unsettled.generation)

    # --- after it ---

    def finish(self, reservation: Reservation, entry: LedgerEntry) -> None:
        """The call has ended and is written to the ledger as `entry`; never waits. A second time does nothing."""
        held = self._held.get(reservation.id)
        if held is None or held.is_finished:
            return
        try:
            held.entry, held.cost = encode_entry(entry), entry.cost
        except (TypeError, ValueError) as exc:
            # What cannot be written is charged as reserved, which is what `held` says until now.
            get_logger().error("ledger entry cannot be encoded", entry=entry.id, exc_info=exc)
        held.is_finished = True
        held.tokens = entry.usage.input + entry.usage.output
        self._ended.append(held)
        self._to_write.append(held)
        self._something_to_write.set()
        self._take_turns_soon()

    def release(self, reservation: Reservation, tokens: int = 0) -> None:
        """The call was not made, or what was reserved was only a place: free it, at no cost. Never waits."""
        held = self._held.get(reservation.id)
        if held is None or held.is_finished:
            return
        held.entry, held.cost, held.is_finished, held.tokens = b"", 0, True, tokens
        self._ended.append(held)
        self._take_turns_soon()

    # --- turns with the store ---

    def _take_turns(self) -> None:
        if self._turns is None:
            self._turns = asyncio.create_task(self._turn_until_done(), name="meter's turns")

    def _take_turns_soon(self, delay_s: float = _COMPANY_S) -> None:
        if self._company is None and self._turns is None:
            self._company = asyncio.get_running_loop().call_later(delay_s, self._company_came)

    def _company_came(self) -> None:
        self._company = None
        self._take_turns()

    async def _turn_until_done(self) -> None:
        delay_s = 0.0
        try:
            # A demand is never kept waiting for anything but the turn before. Others are, while the store is away.
            while self._waiting or (not delay_s and (self._ended or self._written)):
                delay_s = self._away_s if not await self._turn() else 0.0
        finally:
            self._turns = None
        if self._ended or self._written:
            self._take_turns_soon(delay_s)

    async def _turn(self) -> bool:
        """One exchange. False: the store is away; those who ask are told, the rest is kept for another turn."""
        asked = [self._waiting.popleft() for _ in range(min(len(self._waiting), _DEMANDS))]
        ended = [self._ended.popleft() for _ in range(min(len(self._ended), _ENDED))]
        written = [self._written.popleft() for _ in range(min(len(self._written), _ENDED))]
        asked = [one for one in asked if not one[2].done()]
        self._asking = {held.id: held for held, _, _ in asked}
        try:
            verdicts = await self._exchange(ended, written, [(held, demand) for held, demand, _ in asked])
        except BaseException as exc:
            self._ended.extendleft(reversed(ended))
            self._written.extendleft(reversed(written))
            for _, _, answer in asked:
                if not answer.done():
                    answer.set_exception(exc if isinstance(exc, Exception) else UnavailableError("Shutting down."))
            if not isinstance(exc, _AWAY):
                raise
            self._away_s = min(max(self._away_s * 2, _RETRY_S), _LONGEST_RETRY_S)
            return False
        finally:
            self._asking = {}
        self._away_s = 0.0
        for held in ended:
            if not held.entry:
                self._held.pop(held.id, None)
        for held in written:
            self._held.pop(held.id, None)
        for (held, _, answer), verdict in zip(asked, verdicts, strict=True):
            if isinstance(verdict, Reservation):
                self._held[held.id] = held
            if not answer.done():
                answer.set_result(verdict)
            elif isinstance(verdict, Reservation):
                self.release(verdict)
        return True

    async def _exchange(
        self, ended: list[Held], written: list[Held], asked: list[tuple[Held, Demand]]
    ) -> list[Verdict]:
        while True:
            try:
                return await self._store.exchange(ended, written, asked)
            except UnregisteredError:
                await self._register()

    async def _register(self) -> None:
        async with self._registering:
            if not await self._store.register(list(self._held.values())):
                get_logger().warning("meter was thought dead", reservations=len(self._held))
                # Others have written these as abandoned by now. Calls that go on are not charged twice.
                for held_id in [held.id for held in self._held.values() if not held.is_finished]:
                    del self._held[held_id]

    # --- the ledger ---

    async def _write_forever(self) -> None:
        delay_s = _RETRY_S
        while True:
            await self._something_to_write.wait()
            await asyncio.sleep(_LEDGER_EVERY_S)
            batch = [self._to_write.popleft() for _ in range(min(len(self._to_write), _ENTRIES))]
            if not self._to_write:
                self._something_to_write.clear()
            try:
                await self._write(batch)
                delay_s = _RETRY_S
            except _AWAY as exc:
                get_logger().warning("ledger waits", reason=exc.message, entries=len(self._to_write) + len(batch))
                self._to_write.extendleft(reversed(batch))
                self._something_to_write.set()
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LONGEST_RETRY_S)

    async def _write(self, batch: list[Held]) -> None:
        """Raises what says that trying again helps. An entry the ledger can never take must not hold up the others."""
        if not batch:
            return
        try:
            await self._ledger.append([held.entry for held in batch])
        except _AWAY:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must not stop the ledger
            if len(batch) > 1:
                half = len(batch) // 2
                await self._write(batch[:half])
                await self._write(batch[half:])
                return
            get_logger().exception("ledger refuses an entry", entry=batch[0].entry.decode(), exc_info=exc)
        else:
            self._metrics.count("aether_gateway_ledger_entries", float(len(batch)))
        self._written.extend(batch)
        self._take_turns_soon()

    # --- being alive ---

    async def _beat_forever(self) -> None:
        beats = 0
        while True:
            try:
                await self._beat(is_sweeping=beats % _SWEEP_BEATS == _SWEEP_BEATS - 1)
            except _AWAY as exc:
                get_logger().warning("limit store is away", reason=exc.message)
            beats += 1
            await asyncio.sleep(_BEAT_S)

    async def _beat(self, *, is_sweeping: bool) -> None:
        try:
            self._take_over(await self._store.beat())
        except UnregisteredError:
            await self._register()
            return
        if is_sweeping:
            opened, finished = await self._store.strays([*self._held, *self._asking])
            # The answer to a demand was lost: nobody knows that it was granted.
            self._free([one for one in opened if one not in self._held and one not in self._asking])
            self._take_over(finished)

    def _free(self, ids: Sequence[str]) -> None:
        for one in ids:
            self._held[one] = Held(one, b"", b"")
            self.release(Reservation(one))

    def _take_over(self, taken: Sequence[Taken]) -> None:
        for one in taken:
            if one.id not in self._held:
                held = Held(one.id, b"", one.entry, is_finished=True, cost=int(orjson.loads(one.entry)["cost"]))
                self._held[one.id] = held
                self._to_write.append(held)
                self._something_to_write.set()
        if taken:
            get_logger().warning("calls taken over", calls=len(taken))


def _rate_limited(limited: Limited) -> RateLimitedError:
    scope, reason = limited.limit.scope.kind, limited.reason
    number = limited.limit.concurrency if reason is Reason.CONCURRENCY else limited.limit.tokens
    message = {
        Reason.REQUESTS: f"The {scope}'s limit of {limited.limit.requests} requests per minute is reached.",
        Reason.TOKENS: f"The {scope}'s limit of {number} tokens per minute does not cover this request now.",
        Reason.CONCURRENCY: f"The {scope} already has {number} requests running, which is the limit.",
        Reason.TOO_LARGE: f"This request needs more tokens than the {scope}'s limit of {number} per minute ever gives.",
    }[reason]
    details: dict[str, Any] = {
        "reason": reason.value,
        "scope": scope,
        "limit": limited.limit.requests if reason is Reason.REQUESTS else number,
        "requests": limited.requests,
        "tokens": limited.tokens,
    }
    if reason is not Reason.TOO_LARGE:
        details["retry_after_s"] = limited.retry_after_s
    return RateLimitedError(message, **details)
