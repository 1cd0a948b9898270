"""What using a model costs: tokens, prices, limits, budgets and the entries of the ledger.

Money is counted in nano-dollars (10⁻⁹ US dollars, integers), because one token of a cheap model costs 50 of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from serve_app.core.domain.ids import KeyId, OrgId, UserId

NANOS_PER_DOLLAR = 1_000_000_000
ScopeKind = Literal["organisation", "group", "user", "key", "credential"]
Period = Literal["day", "month", "total"]


@dataclass(frozen=True)
class Usage:
    """Tokens. `input` counts all that was read, `cached` and `cache_written` parts of it included; `output` counts all
    that was written, `reasoning` included. (Anthropic and Gemini count otherwise; their decoders convert.)"""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_written: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Price:
    """Nano-dollars per thousand tokens; `gpu_second` in nano-dollars per second."""

    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    gpu_second: int = 0

    def cost(self, usage: Usage, gpu_seconds: float = 0.0) -> int:
        """Nano-dollars, rounded up."""
        fresh = max(usage.input - usage.cached - usage.cache_written, 0)
        tokens = (
            fresh * self.input
            + usage.cached * self.cached_input
            + usage.cache_written * self.cache_write
            + usage.output * self.output
        )
        return -(-tokens // 1000) + int(gpu_seconds * self.gpu_second)

    def worst(self, usage: Usage, gpu_seconds: float = 0.0) -> int:
        """The same when nothing is known of the cache: every token read at its dearest."""
        dearest = max(self.input, self.cached_input, self.cache_write)
        tokens = usage.input * dearest + usage.output * self.output
        return -(-tokens // 1000) + int(gpu_seconds * self.gpu_second)


@dataclass(frozen=True)
class Scope:
    """Whom a limit or a budget binds. `credential` is one key of a provider."""

    kind: ScopeKind
    id: str


@dataclass(frozen=True)
class Limit:
    """Per minute, refilled continuously, and at one time. None does not bind."""

    scope: Scope
    requests: int | None = None
    tokens: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True)
class Budget:
    """What a scope may spend in a period (UTC). `total` never starts anew."""

    id: str
    scope: Scope
    amount: int
    period: Period


class Outcome(StrEnum):
    """How a call to a model ended, for the ledger."""

    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    """The client left, or the stream broke: what was written until then is counted."""
    ABANDONED = "abandoned"
    """The process that made the call died: what was reserved is charged."""
    CACHED = "cached"


@dataclass(frozen=True)
class LedgerEntry:
    """One call. `id` is that of its reservation, so an entry is written once however often it is tried."""

    id: str
    org_id: OrgId
    user_id: UserId
    key_id: KeyId | None
    at: datetime
    model: str
    provider: str
    credential: str
    dialect: str
    outcome: Outcome
    usage: Usage
    is_estimated: bool
    """The provider told no tokens: they were counted by length."""
    cost: int
    reserved: int
    price: Price
    duration_ms: int
    session_id: str | None = None
    request_id: str | None = None
    groups: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Demand:
    """What a call asks for before it starts: a place under every limit, and money under every budget.

    `entry` is the call as far as it is known; it enters the ledger as abandoned, at what is reserved, should the
    process die. None is for what costs nothing by itself, such as a place under a provider key's limits.
    """

    id: str
    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    tokens: int = 0
    """Expected, input and output together."""
    health: tuple[str, ...] = ()
    """Provider keys whose cooldowns the caller wants to know."""
    entry: LedgerEntry | None = None

    @property
    def cost(self) -> int:
        return self.entry.reserved if self.entry else 0


@dataclass(frozen=True)
class Allowance:
    """A limit per minute as clients are told of it: of the tightest scope."""

    limit: int
    remaining: int
    reset_s: float
    """Until it is full again."""


@dataclass(frozen=True)
class Reservation:
    """A demand that was granted. Its holder ends it exactly once: `Meter.finish` or `Meter.release`."""

    id: str
    requests: Allowance | None = None
    tokens: Allowance | None = None
    cooldowns: Mapping[str, float] = field(default_factory=dict)
    """Seconds, of those of the demand's `health` keys that cool down; by `model_key` those that do for one model."""
    half_open: frozenset[str] = frozenset()
    """Those that have cooled down and wait for one call to prove that they work (`HealthStore.probe`)."""


def model_key(credential: str, model: str) -> str:
    """A provider's key as far as it is used for one of its models: vendors limit each model by itself."""
    return f"{credential} {model}"


def period_start(period: Period, at: datetime) -> datetime:
    """When the budget period that `at` falls into began."""
    at = at.astimezone(UTC)
    match period:
        case "day":
            return at.replace(hour=0, minute=0, second=0, microsecond=0)
        case "month":
            return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        case "total":
            return datetime(1970, 1, 1, tzinfo=UTC)
