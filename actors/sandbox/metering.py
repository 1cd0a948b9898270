"""What a sandbox costs: reserved in slices before its processes may run, written to the ledger as they have run."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Protocol

from serve_app.core.clock import Clock
from serve_app.core.domain.ids import OrgId, new_ledger_id
from serve_app.core.domain.sandboxes import Sandbox
from serve_app.core.domain.spending import Demand, LedgerEntry, Outcome, Price, Reservation, Usage
from serve_app.core.services.bindings import Bindings, read_bindings
from serve_app.core.services.metering import Meter

SLICE_S = 60.0
"""So much is reserved at one time."""
_AHEAD_S = 3.0
"""The next slice is reserved so long before this one is over, so that nothing runs unpaid meanwhile."""
_FRESH_S = 5.0
_MOST_ORGANISATIONS = 2_000


class Policies(Protocol):
    """Where budgets and groups are kept, as `SqlGatewayRepository` has them."""

    async def policy(self, org_id: OrgId) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Read:
    bindings: Bindings
    at: float


class SandboxMeters:
    """One a pool. Budgets are at most five seconds old when a slice begins. The meter is not closed here."""

    def __init__(self, meter: Meter, policies: Policies, clock: Clock, *, slice_s: float = SLICE_S) -> None:
        self._meter = meter
        self._policies = policies
        self._clock = clock
        self._slice_s = slice_s
        self._read: OrderedDict[OrgId, _Read] = OrderedDict()

    def of(self, sandbox: Sandbox, nanos_per_second: int) -> "SandboxMeterage":
        price = Price(gpu_second=nanos_per_second)
        return SandboxMeterage(self._meter, self._bindings, self._clock, sandbox, price, self._slice_s)

    async def _bindings(self, org_id: OrgId) -> Bindings:
        now = self._clock.monotonic()
        read = self._read.get(org_id)
        if read is None or now - read.at > _FRESH_S:
            read = _Read(read_bindings(org_id, await self._policies.policy(org_id)), now)
            self._read[org_id] = read
            self._read.move_to_end(org_id)
            if len(self._read) > _MOST_ORGANISATIONS:
                self._read.popitem(last=False)
        return read.bindings


class _BindingSource(Protocol):
    async def __call__(self, org_id: OrgId) -> Bindings: ...


@dataclass(frozen=True)
class _Slice:
    reservation: Reservation
    entry: LedgerEntry
    began: float


class SandboxMeterage:
    """One sandbox's. A pool that dies leaves its slice reserved, which is then charged in full as abandoned.

    Limits of requests do not bind here: a sandbox that runs must not take the place of a call to a model.
    """

    def __init__(
        self,
        meter: Meter,
        bindings: _BindingSource,
        clock: Clock,
        sandbox: Sandbox,
        price: Price,
        slice_s: float,
    ) -> None:
        self._meter = meter
        self._bindings = bindings
        self._clock = clock
        self._sandbox = sandbox
        self._price = price
        self._slice_s = slice_s
        self._current: _Slice | None = None
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """Reserve the first slice; one that has begun goes on. Raises `BudgetExceededError`, `UnavailableError`."""
        async with self._turn:
            if self._current is None:
                self._current = await self._reserved()

    async def tick(self) -> None:
        """Reserve what comes and settle what has passed, where a slice ends. Cheap in between.

        Raises:
            BudgetExceededError: nothing is left for another slice. What is reserved holds for a few seconds more.
            UnavailableError: it cannot be told now. It goes on, and is charged when it can.
        """
        if self._turn.locked():
            return
        async with self._turn:
            current = self._current
            if current is None or self._clock.monotonic() - current.began < self._slice_s - _AHEAD_S:
                return
            following = await self._reserved()
            self._settle(current)
            # The new slice's time begins where the old one's was settled.
            self._current = replace(following, began=self._clock.monotonic())

    async def end(self) -> None:
        """Settle what was used. It may begin again."""
        async with self._turn:
            current, self._current = self._current, None
            if current is not None:
                self._settle(current)

    async def _reserved(self) -> _Slice:
        sandbox, cost = self._sandbox, self._price.cost(Usage(), self._slice_s)
        binding = (await self._bindings(sandbox.org_id)).of(sandbox.user_id, sandbox.key_id)
        entry = LedgerEntry(
            id=new_ledger_id(),
            org_id=sandbox.org_id,
            user_id=sandbox.user_id,
            key_id=sandbox.key_id,
            at=self._clock.now(),
            model=f"sandbox/{sandbox.profile}",
            provider="sandbox",
            credential=sandbox.id,
            dialect="sandbox",
            outcome=Outcome.ABANDONED,
            usage=Usage(),
            is_estimated=False,
            cost=cost,
            reserved=cost,
            price=self._price,
            duration_ms=int(self._slice_s * 1000),
            session_id=sandbox.session_id,
            groups=binding.groups,
        )
        # What costs nothing is bound by no budget, not even by one that is spent.
        budgets = binding.budgets if cost else ()
        reservation = await self._meter.admit(Demand(id=entry.id, budgets=budgets, entry=entry))
        return _Slice(reservation, entry, self._clock.monotonic())

    def _settle(self, ended: _Slice) -> None:
        used_s = self._clock.monotonic() - ended.began
        entry = replace(
            ended.entry,
            outcome=Outcome.COMPLETED,
            cost=self._price.cost(Usage(), used_s),
            duration_ms=round(used_s * 1000),
        )
        self._meter.finish(ended.reservation, entry)
