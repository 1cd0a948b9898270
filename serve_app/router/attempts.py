"""Calls candidates one after another until one begins to answer: retries, keys that cool down, fallbacks."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from serve_app.core.clock import Clock
from serve_app.core.errors import (
    AetherError,
    ContentFilteredError,
    ContextLengthError,
    MisconfiguredError,
    ProviderError,
    RateLimitedError,
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

_TRIES = 3
_BASE_S, _CAP_S = 0.2, 4.0
_PATIENCE_S = 10.0
"""How long a call waits for a provider that says when to come back; longer, and another one is asked."""
_UNSAID_COOLDOWN_S = 10.0
_REFUSED_KEY_COOLDOWN_S = 300.0


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
        health: HealthStore,
        loads: Loads,
        clock: Clock,
        metrics: Metrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ways = ways
        self._keyring = keyring
        self._health = health
        self._loads = loads
        self._clock = clock
        self._metrics = metrics
        self._sleep = sleep
        self._failing: set[str] = set()

    async def begin(
        self,
        call: Call,
        route: Route,
        cooling: Mapping[str, float],
        half_open: AbstractSet[str] = frozenset(),
        may_ask: Callable[[Candidate], bool] = lambda _: True,
    ) -> Begun:
        """The first answer that begins. Call `ended` with its target when it is over.

        `may_ask`: whether a candidate further down may be called at all (what is reserved pays for it).

        Raises:
            AetherError: the last thing that went wrong when nobody is left to ask.
        """
        cool = dict(cooling)
        tried: set[str] = set()
        failures: list[tuple[str, str]] = []
        candidate: Candidate | None = route.first
        error: AetherError = UnavailableError("No model can answer this now. Try again in a moment.")
        while candidate is not None:
            tried.add(candidate.key)
            failure: Failure = "error"
            for left in reversed(range(_TRIES)):
                provider, dialect = self._ways.to(call, candidate)
                credential = await self._key(candidate, cool, half_open)
                if credential is None:
                    error = _all_cooling(candidate, cool, error)
                    break
                target = Target(candidate, credential, dialect)
                if not failures:
                    self._health.began(candidate.provider.id)
                try:
                    reply, waited_s = await self._open(provider, call, target)
                    return Begun(reply, target, tuple(failures), waited_s)
                except ContextLengthError as exc:
                    error, failure = exc, "context_length"
                    failures.append((candidate.model.id, exc.code))
                    break
                except ContentFilteredError as exc:
                    error, failure = exc, "content_policy"
                    failures.append((candidate.model.id, exc.code))
                    break
                except (RateLimitedError, MisconfiguredError, UnavailableError) as exc:
                    error = exc
                    failures.append((candidate.model.id, exc.code))
                    pause_s = await self._after(exc, target, cool, left)
                    if pause_s is None:
                        break
                    await self._sleep(pause_s)
            candidate = route.after(failure, tried)
            while candidate is not None and not may_ask(candidate):
                tried.add(candidate.key)
                candidate = route.after(failure, tried)
            if candidate is not None:
                get_logger().warning("falls back", model=candidate.model.id, reason=error.code)
        raise error

    def ended(self, target: Target, *, failed: bool) -> None:
        """The answer is over, in whatever way."""
        self._keyring.give_back(target.credential)
        self._loads.ended(target.candidate.key, failed=failed)

    async def _key(
        self, candidate: Candidate, cool: dict[str, float], half_open: AbstractSet[str]
    ) -> Credential | None:
        """A key that does not rest; one that has just rested is tried by one call at a time."""
        while True:
            credential = self._keyring.take(candidate.provider, candidate.credentials, cool)
            if credential is None or credential.id not in half_open or await self._probe(credential.id):
                return credential
            self._keyring.give_back(credential)
            cool[credential.id] = 1.0

    async def _probe(self, credential: str) -> bool:
        try:
            may_go = await self._health.probe(credential)
        except UnavailableError:
            return True
        if may_go:
            self._failing.add(credential)
        return may_go

    async def _open(self, provider: Provider, call: Call, target: Target) -> tuple[Reply, float]:
        key = target.candidate.key
        started = self._clock.monotonic()
        self._loads.began(key)
        has_begun = False
        failed = False
        try:
            reply = await provider.open(call, target)
            has_begun = True
        except (UnavailableError, RateLimitedError, MisconfiguredError):
            failed = True
            raise
        finally:
            if not has_begun:
                self.ended(target, failed=failed)
        waited_s = self._clock.monotonic() - started
        self._loads.first_byte(key, waited_s)
        if target.credential.id in self._failing:
            self._failing.discard(target.credential.id)
            with suppress(UnavailableError):
                await self._health.succeed(target.credential.id)
        return reply, waited_s

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
                await self._cool(credential, _REFUSED_KEY_COOLDOWN_S, cool)
                return self._other_key(target, cool, left)
            case RateLimitedError():
                await self._cool(credential, told_s or _UNSAID_COOLDOWN_S, cool)
                if self._other_key(target, cool, left) is not None:
                    return 0.0
                if not left or told_s is None or told_s > _PATIENCE_S or not await self._may_retry(provider):
                    return None
                del cool[credential]
                return told_s
            case ProviderError():
                self._failing.add(credential)
                with suppress(UnavailableError):
                    await self._health.fail(credential)
            case _:
                pass
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

    async def _cool(self, credential: str, seconds: float, cool: dict[str, float]) -> None:
        cool[credential] = seconds
        with suppress(UnavailableError):
            await self._health.cool(credential, seconds)

    @staticmethod
    def _other_key(target: Target, cool: Mapping[str, float], left: int) -> float | None:
        return 0.0 if left and any(key.id not in cool for key in target.candidate.credentials) else None


def _all_cooling(candidate: Candidate, cool: Mapping[str, float], before: AetherError) -> AetherError:
    """What to say when every key must rest: what the last one heard, or else when the first of them is back."""
    if isinstance(before, RateLimitedError | MisconfiguredError | ProviderError):
        return before
    wait_s = min((cool[key.id] for key in candidate.credentials if key.id in cool), default=1.0)
    return UnavailableError(f"The provider of '{candidate.model.id}' is resting after failures.", retry_after_s=wait_s)
