"""The ports for what all replicas count together: limits, reservations, and the health of provider keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from serve_app.core.domain.spending import Allowance, Budget, Demand, Limit, Reservation


@dataclass(slots=True, eq=False)
class Held:
    """A reservation as its replica remembers it, so that a store that lost its memory can be told again.

    `entry` is the JSON of its ledger entry: as it would be abandoned, and once the call has ended, as it is.
    """

    id: str
    control: bytes
    entry: bytes
    is_finished: bool = False
    tokens: int = 0
    """Read and written, once the call has ended."""
    cost: int = 0


class Reason(Enum):
    """Which part of a limit is in the way."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"
    TOO_LARGE = "too_large"
    """More tokens than the limit ever gives at once."""


@dataclass(frozen=True)
class Limited:
    """A limit stands against the demand."""

    limit: Limit
    reason: Reason
    retry_after_s: float
    requests: Allowance | None
    tokens: Allowance | None


@dataclass(frozen=True)
class Spent:
    """What is left of a budget does not cover the demand."""

    budget: Budget


@dataclass(frozen=True)
class Unloaded:
    """The store does not know what was spent of a budget: load it and ask again."""

    budget: Budget


Verdict = Reservation | Limited | Spent | Unloaded


@dataclass(frozen=True)
class Taken:
    """A call whose replica died, or that only the store remembers; its entry belongs into the ledger."""

    id: str
    entry: bytes


@dataclass(frozen=True)
class Unsettled:
    """Reservations of a budget that are not settled. `generation` tells whether some were, by the time of `load`."""

    ids: Sequence[str]
    generation: int


class UnregisteredError(Exception):
    """The store does not know this replica (any more): nothing was done. `LimitStore.register`, then again."""


class LimitStore(Protocol):
    """One replica's side. Each call is one atomic step; all raise `UnavailableError` and `MisconfiguredError`.

    All but `register` raise `UnregisteredError`.
    """

    def hold(self, demand: Demand, entry: bytes) -> Held:
        """Prepare a demand to be asked for. `entry` is empty when it has none."""
        ...

    async def exchange(
        self, finished: Sequence[Held], settled: Sequence[Held], asked: Sequence[tuple[Held, Demand]]
    ) -> list[Verdict]:
        """One turn, in this order: calls that have ended, entries the ledger has, demands. A verdict each.

        Everything may be repeated when its answer was lost, but `asked`: what nobody remembers asking for is found
        by `strays`. A finished `Held` without an entry is settled at no cost.
        """
        ...

    async def register(self, held: Sequence[Held]) -> bool:
        """Make this replica known, with all it holds. False: it was thought dead, and what it held is taken over."""
        ...

    async def beat(self) -> list[Taken]:
        """Say that this replica is alive, and take over what dead ones held; their slots are free when this returns."""
        ...

    async def strays(self, known: Sequence[str]) -> tuple[list[str], list[Taken]]:
        """What the store has under this replica's name beside `known`: open reservations, and finished ones."""
        ...

    async def unsettled(self, budget: Budget, at: datetime) -> Unsettled | float:
        """The first step of loading a budget; seconds to wait when the store has just begun anew."""
        ...

    async def load(self, budget: Budget, at: datetime, spent: int, generation: int) -> None:
        """The second: `spent` without those that were unsettled. Without effect if things have moved on."""
        ...

    async def close(self) -> None: ...


class HealthStore(Protocol):
    """Circuit breakers and retry budgets, by provider key and by provider. All raise `UnavailableError`."""

    async def fail(self, key: str) -> float:
        """Count a failure; returns for how many seconds the key now rests (0: the breaker stays closed)."""
        ...

    async def cool(self, key: str, seconds: float, model: str | None = None) -> None:
        """Let a key rest because its provider said so (`Retry-After`): for one model, or for all."""
        ...

    async def probe(self, key: str, ticket: str) -> bool:
        """Whether this call may go out on a key that was half open: one at a time may. `ticket` is the call's own."""
        ...

    async def release(self, key: str, ticket: str) -> None:
        """The probe with this ticket ended without a verdict: the next may go. Without effect after `fail` or `succeed`."""
        ...

    async def succeed(self, key: str) -> None:
        """A probe went well: the breaker closes."""
        ...

    async def cooldowns(self, keys: Sequence[str]) -> tuple[Mapping[str, float], frozenset[str]]:
        """As in `Reservation`: seconds left (of a key for one model by `model_key`), and what is half open."""
        ...

    def began(self, provider: str) -> None:
        """A first attempt went to this provider: it earns a share of a retry."""
        ...

    async def may_retry(self, provider: str) -> bool:
        """Take one retry from the provider's budget, so that an outage is not amplified."""
        ...
