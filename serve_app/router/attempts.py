"""Calls candidates one after another until one begins to answer: retries, keys that cool down, fallbacks."""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from serve_app.core.clock import Clock
from serve_app.core.domain.ids import new_ledger_id
from serve_app.core.domain.spending import Demand, Reservation, model_key
from serve_app.core.errors import (
    AetherError,
    ContentFilteredError,
    ContextLengthError,
    EngineError,
    MisconfiguredError,
    OverloadedError,
    ProviderError,
    RateLimitedError,
    TimedOutError,
    UnavailableError,
)
from serve_app.core.stores.limits.base import HealthStore
from serve_app.core.telemetry import Metrics, get_logger
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.keyring import Credential, Keyring
from serve_app.router.loads import Loads
from serve_app.router.policy import Failure, Route
from serve_app.router.providers.base import Call, Provider, Reply, Target
from serve_app.router.view import Candidate
from serve_app.router.within import Within

_TRIES = 3
_BASE_S, _CAP_S = 0.2, 4.0
_PATIENCE_S = 10.0
"""How long a call waits for a provider that says when to come back; longer, and another one is asked."""
_CANDIDATES = 4
"""Called for one request at most, so that an outage of many is not made worse by each call."""
_TOTAL_S = 900.0
_UNSAID_COOLDOWN_S = 10.0
_REFUSED_KEY_COOLDOWN_S = 300.0


class Places(Protocol):
    """Limits, as `Meter` keeps them."""

    async def admit(self, demand: Demand) -> Reservation: ...

    def release(self, reservation: Reservation, tokens: int = 0) -> None: ...


class Ways(Protocol):
    """How a candidate is reached from a client's dialect."""

    def to(self, call: Call, candidate: Candidate) -> tuple[Provider, Dialect]: ...


@dataclass(frozen=True)
class Begun:
    """An answer that has begun. `end` is called once, when it has ended."""

    reply: Reply
    target: Target
    failures: tuple[tuple[str, str], ...]
    """(model, error code) of each try before."""
    waited_s: float
    """How long the provider that answers took to begin."""


class Attempts:
    """`sleep` is `asyncio.sleep` outside of tests."""

    def __init__(
        self,
        ways: Ways,
        keyring: Keyring,
        places: Places,
        health: HealthStore,
        loads: Loads,
        clock: Clock,
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ways = ways
        self._keyring = keyring
        self._places = places
        self._health = health
        self._loads = loads
        self._clock = clock
        self._metrics = metrics
        self._sleep = sleep

    async def begin(
        self,
        call: Call,
        route: Route,
        cooling: Mapping[str, float],
        half_open: AbstractSet[str] = frozenset(),
        may_ask: Callable[[Candidate], bool] = lambda _: True,
    ) -> Begun:
        """The first answer that begins. Call `ended` with its target when it is over.

        `may_ask`: whether a candidate may be called at all (what is reserved pays for it).

        Raises:
            AetherError: the last thing that went wrong when nobody is left to ask.
        """
        try:
            with Within(_TOTAL_S):
                return await self._begin(call, route, dict(cooling), half_open, may_ask)
        except TimeoutError as exc:
            raise TimedOutError("No provider began to answer in time.") from exc

    def ended(self, target: Target, *, failed: bool, tokens: int = 0) -> None:
        """The answer is over, in whatever way; `tokens` went through the key."""
        self._give_back(target, tokens)
        self._loads.ended(target.candidate.key, failed=failed)

    async def _begin(
        self,
        call: Call,
        route: Route,
        cool: dict[str, float],
        half_open: AbstractSet[str],
        may_ask: Callable[[Candidate], bool],
    ) -> Begun:
        tried: set[str] = set()
        failures: list[tuple[str, str]] = []
        error: AetherError = UnavailableError("No model can answer this now. Try again in a moment.")
        candidate: Candidate | None = route.first
        failure: Failure = "error"
        asked = 0
        while candidate is not None and asked < _CANDIDATES:
            tried.add(candidate.key)
            if may_ask(candidate):
                asked += 1
                begun, error, failure = await self._ask(call, route, candidate, cool, half_open, failures, error)
                if begun is not None:
                    return begun
            candidate = route.after(failure, tried)
            if candidate is not None:
                get_logger().warning("falls back", model=candidate.model.id, reason=error.code)
        raise error

    async def _ask(
        self,
        call: Call,
        route: Route,
        candidate: Candidate,
        cool: dict[str, float],
        half_open: AbstractSet[str],
        failures: list[tuple[str, str]],
        error: AetherError,
    ) -> tuple[Begun | None, AetherError, Failure]:
        """One candidate, up to `_TRIES` times: an answer that has begun, or what went wrong and what helps against it."""
        self._health.began(candidate.provider.id)
        for left in reversed(range(_TRIES)):
            provider, dialect = self._ways.to(call, candidate)
            credential = self._keyring.take(candidate.provider, candidate.credentials, candidate.resting(cool))
            if credential is None:
                return None, _all_cooling(candidate, cool, error), "error"
            try:
                place = await self._place(credential, route)
            except RateLimitedError as exc:
                # Ours, before the vendor's: another key may have room.
                cool[credential.id] = exc.details.get("retry_after_s", 1.0)
                error = exc
                continue
            target = Target(candidate, credential, dialect, place)
            ticket = secrets.token_hex(8) if credential.id in half_open else None
            try:
                if ticket is not None and not await self._probe(target, ticket):
                    ticket, cool[credential.id] = None, 1.0
                    continue
                reply, waited_s = await self._open(provider, call, target, is_probe=ticket is not None)
                ticket = None
                return Begun(reply, target, tuple(failures), waited_s), error, "error"
            except (ContextLengthError, ContentFilteredError) as exc:
                failures.append((candidate.model.id, exc.code))
                return None, exc, "context_length" if isinstance(exc, ContextLengthError) else "content_policy"
            except (RateLimitedError, MisconfiguredError, UnavailableError, EngineError) as exc:
                error = exc
                failures.append((candidate.model.id, exc.code))
                pause_s = await self._after(exc, target, cool, left)
            finally:
                if ticket is not None:
                    # Without a verdict, as when its client left, a probe must not keep the next one waiting.
                    await self._release(credential, ticket)
            if pause_s is None:
                break
            await self._sleep(pause_s)
        return None, error, "error"

    async def _release(self, credential: Credential, ticket: str) -> None:
        with suppress(UnavailableError):
            await self._health.release(credential.id, ticket)

    async def _probe(self, target: Target, ticket: str) -> bool:
        """A key that has just rested is tried by one call at a time."""
        may_go = False
        try:
            may_go = await self._health.probe(target.credential.id, ticket)
        except UnavailableError:
            may_go = True
        finally:
            if not may_go:
                self._give_back(target)
        return may_go

    async def _place(self, credential: Credential, route: Route) -> Reservation | None:
        """Raises `RateLimitedError` when the key's own limits have no room; the key is given back then."""
        if credential.limit is None:
            return None
        tokens = route.needs.input_tokens + (route.needs.output_tokens or route.first.model.max_output_tokens)
        has_place = False
        try:
            place = await self._places.admit(Demand(id=new_ledger_id(), limits=(credential.limit,), tokens=tokens))
            has_place = True
            return place
        finally:
            if not has_place:
                self._keyring.give_back(credential)

    def _give_back(self, target: Target, tokens: int = 0) -> None:
        self._keyring.give_back(target.credential)
        if target.place is not None:
            self._places.release(target.place, tokens)

    async def _open(self, provider: Provider, call: Call, target: Target, *, is_probe: bool) -> tuple[Reply, float]:
        key = target.candidate.key
        started = self._clock.monotonic()
        self._loads.began(key)
        reply: Reply | None = None
        is_well = failed = False
        try:
            reply = await provider.open(call, target)
            is_well = True
        except (UnavailableError, RateLimitedError, MisconfiguredError, EngineError):
            failed = True
            raise
        except AetherError:
            # It understood and declined: whoever can do that works.
            is_well = True
            raise
        finally:
            if reply is None:
                self.ended(target, failed=failed)
            if is_probe and is_well:
                await self._succeed(target, reply)
        waited_s = self._clock.monotonic() - started
        self._loads.first_byte(key, waited_s)
        return reply, waited_s

    async def _succeed(self, target: Target, reply: Reply | None) -> None:
        try:
            with suppress(UnavailableError):
                await self._health.succeed(target.credential.id)
        except BaseException:
            # Cancelled here: nobody will ever hold this reply.
            if reply is not None:
                self.ended(target, failed=False)
                if reply.pieces is not None:
                    await reply.pieces.aclose()
            raise

    async def _after(self, exc: AetherError, target: Target, cool: dict[str, float], left: int) -> float | None:
        """Take note of a failure. Returns how long to wait before this model is tried again; None: not again."""
        credential, provider = target.credential.id, target.provider.id
        self._metrics.count("aether_gateway_provider_failures", provider=provider, code=exc.code)
        get_logger().warning(
            "provider failed", provider=provider, model=target.model.id, credential=credential,
            code=exc.code, reason=exc.message, provider_status=exc.details.get("provider_status"),
        )  # fmt: skip
        told_s: float | None = exc.details.get("retry_after_s")
        match exc:
            case MisconfiguredError():
                await self._cool(credential, None, _REFUSED_KEY_COOLDOWN_S, cool)
                return self._other_key(target, cool, left)
            case RateLimitedError():
                model = None if exc.details.get("is_account_wide") else target.model.upstream_name
                rests = await self._cool(credential, model, told_s or _UNSAID_COOLDOWN_S, cool)
                if self._other_key(target, cool, left) is not None:
                    return 0.0
                if not left or told_s is None or told_s > _PATIENCE_S or not await self._may_retry(provider):
                    return None
                del cool[rests]
                return told_s
            case OverloadedError():
                # It answers, and has no room: that mends itself by waiting.
                pass
            case _:
                with suppress(UnavailableError):
                    if rests_s := await self._health.fail(credential):
                        # Its breaker has opened: this call leaves it alone as well.
                        cool[credential] = rests_s
                        return self._other_key(target, cool, left)
        if not left or (told_s or 0.0) > _PATIENCE_S or not await self._may_retry(provider):
            return None
        # Full jitter: replicas that failed together do not come back together.
        return max(told_s or 0.0, random.uniform(0, min(_CAP_S, _BASE_S * 2 ** (_TRIES - left))))  # noqa: S311 - spreads load

    async def _may_retry(self, provider: str) -> bool:
        try:
            return await self._health.may_retry(provider)
        except UnavailableError:
            # Without the count that all share: better no retry than a storm of them.
            return False

    async def _cool(self, credential: str, model: str | None, seconds: float, cool: dict[str, float]) -> str:
        """Returns under which name it stands in `cool`."""
        name = credential if model is None else model_key(credential, model)
        cool[name] = seconds
        with suppress(UnavailableError):
            await self._health.cool(credential, seconds, model)
        return name

    @staticmethod
    def _other_key(target: Target, cool: Mapping[str, float], left: int) -> float | None:
        candidate = target.candidate
        return 0.0 if left and len(candidate.resting(cool)) < len(candidate.credentials) else None


def _all_cooling(candidate: Candidate, cool: Mapping[str, float], before: AetherError) -> AetherError:
    """What to say when every key must rest: what the last one heard, or else when the first of them is back."""
    if isinstance(before, RateLimitedError | MisconfiguredError | ProviderError):
        return before
    wait_s = min(candidate.resting(cool).values(), default=1.0)
    return UnavailableError(f"The provider of '{candidate.model.id}' is resting after failures.", retry_after_s=wait_s)
