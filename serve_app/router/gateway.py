"""One call to a model through everything it passes: choice, limits and budgets, the provider, the ledger."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import orjson

from serve_app.core.clock import Clock
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import new_ledger_id
from serve_app.core.domain.spending import Demand, LedgerEntry, Outcome, Reservation, Usage
from serve_app.core.errors import AetherError
from serve_app.core.services.metering import Meter
from serve_app.core.stores.limits.base import HealthStore
from serve_app.core.telemetry import Metrics
from serve_app.router.attempts import Attempts, Begun
from serve_app.router.cache import AnswerCache, Cached
from serve_app.router.dialects.canonical import Dialect
from serve_app.router.loads import Loads
from serve_app.router.needs import Endpoint, needs_of
from serve_app.router.policies import Policies, Policy
from serve_app.router.policy import Route, header, route
from serve_app.router.providers.base import Call
from serve_app.router.request_log import Logged, RequestLog
from serve_app.router.view import Candidate
from serve_app.router.ways import dialects_of

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Asking:
    """A call with who makes it. `started` is `perf_counter` when the request arrived."""

    caller: Caller
    call: Call
    endpoint: Endpoint
    request_id: str
    started: float
    session_key: str | None = None
    session_id: str | None = None


@dataclass
class Answered:
    """What goes back: exactly one of `body` and `pieces`."""

    headers: Headers
    body: bytes | None = None
    pieces: AsyncGenerator[bytes, None] | None = None
    reservation: Reservation | None = None
    """For the headers that tell a client its limits."""
    final_object: Callable[[], Mapping[str, Any] | None] | None = None
    error_event: Callable[[AetherError], bytes] | None = None


class Gateway:
    """Stateless but for what its collaborators hold."""

    def __init__(
        self,
        policies: Policies,
        attempts: Attempts,
        meter: Meter,
        health: HealthStore,
        loads: Loads,
        cache: AnswerCache,
        log: RequestLog,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._policies = policies
        self._loads = loads
        self._health = health
        self._clock = clock
        self.attempts = attempts
        self.meter = meter
        self.cache = cache
        self.log = log
        self.metrics = metrics

    async def route(self, asking: Asking, cooling: Mapping[str, float] | None = None) -> tuple[Policy, Route]:
        """Who would answer, and why. Raises what `policy.route` raises."""
        policy = await self._policies.of(asking.caller.org_id)
        call = asking.call
        needs = needs_of(asking.endpoint, call.raw, len(call.body))
        name = str(call.raw.get("model") or "auto")
        return policy, route(policy.view, name, needs, self._loads, asking.session_key, cooling)

    async def route_now(self, asking: Asking) -> tuple[Policy, Route]:
        """The same, with what every replica knows of the keys' health asked for once more."""
        policy = await self._policies.of(asking.caller.org_id)
        keys = {key.id for candidate in policy.view.usable() for key in candidate.credentials}
        cooling, _ = await self._health.cooldowns(sorted(keys))
        return await self.route(asking, cooling)

    async def count_tokens(self, asking: Asking) -> Answered:
        """By the provider where it counts Anthropic's way, else estimated, which the answer's headers say."""
        _, chosen = await self.route_now(asking)
        if Dialect.ANTHROPIC not in dialects_of(chosen.first):
            headers = [(b"content-type", b"application/json"), (b"x-aether-estimated", b"true")]
            return Answered(headers, body=orjson.dumps({"input_tokens": chosen.needs.input_tokens}))
        begun = await self.attempts.begin(asking.call, chosen, {})
        self.attempts.ended(begun.target, failed=False)
        return Answered(begun.reply.headers, body=begun.reply.body)

    async def answer(self, asking: Asking) -> Answered:
        """Raises `AetherError`; nothing is held or owed then."""
        policy, chosen = await self.route(asking)
        if policy.cache_ttl_s and (hit := await self.cache.find(asking.caller.org_id, asking.call)):
            return self._from_cache(asking, chosen, hit)
        demand, expected = self._demand(asking, policy, chosen)
        reservation = await self.meter.admit(demand)
        passage = _Call(self, asking, policy, reservation, expected, chosen)
        return await passage.begin()

    def _demand(self, asking: Asking, policy: Policy, chosen: Route) -> tuple[Demand, LedgerEntry]:
        """What this call may take at most, and its entry as it would be should this process die."""
        caller, needs, first = asking.caller, chosen.needs, chosen.first
        scopes = policy.scopes(caller)
        most = Usage(input=needs.input_tokens, output=needs.output_tokens or first.model.max_output_tokens)
        chains = [candidate for chain in chosen.fallbacks.values() for candidate in chain]
        reachable = (*chosen.candidates, *chains)
        # For the first and those named to stand in for it. Others an alias may fall back to must not cost more.
        cost = max(candidate.price_for(most.input).cost(most) for candidate in (first, *chains))
        entry = LedgerEntry(
            id=new_ledger_id(),
            org_id=caller.org_id,
            user_id=caller.user_id,
            key_id=caller.key_id,
            at=self._clock.now(),
            model=first.model.id,
            provider=first.provider.id,
            credential="",
            dialect=asking.endpoint,
            outcome=Outcome.ABANDONED,
            usage=most,
            is_estimated=True,
            cost=cost,
            reserved=cost,
            price=first.price_for(most.input),
            duration_ms=0,
            session_id=asking.session_id,
            request_id=asking.request_id,
            groups=policy.groups.get(caller.user_id, ()),
        )
        demand = Demand(
            id=entry.id,
            limits=tuple(policy.limits[scope] for scope in scopes if scope in policy.limits),
            budgets=tuple(budget for scope in scopes for budget in policy.budgets.get(scope, ())),
            tokens=most.input + most.output,
            health=tuple({credential.id for candidate in reachable for credential in candidate.credentials}),
            entry=entry,
        )
        return demand, entry

    def _from_cache(self, asking: Asking, chosen: Route, hit: Cached) -> Answered:
        self.metrics.count("aether_gateway_calls", model=chosen.first.model.id, outcome=Outcome.CACHED.value)
        headers = [(b"content-type", hit.content_type.encode()), (b"x-aether-cache", b"hit")]
        return Answered([*headers, *own_headers(asking, header(chosen), 0.0)], body=hit.body)


class _Call:
    """One call that was admitted: from here on exactly one entry goes to the ledger."""

    def __init__(
        self,
        gateway: Gateway,
        asking: Asking,
        policy: Policy,
        reservation: Reservation,
        expected: LedgerEntry,
        chosen: Route,
    ) -> None:
        self._g = gateway
        self._asking = asking
        self._policy = policy
        self._reservation = reservation
        self._expected = expected
        self._chosen = chosen

    async def begin(self) -> Answered:
        gateway, asking, reservation = self._g, self._asking, self._reservation
        outcome: Outcome | None = Outcome.ABORTED
        status = 499
        try:
            cooling = reservation.cooldowns
            if any(credential.id in cooling for credential in self._chosen.first.credentials):
                # Known only now, by the round trip that asked the limits: choose again with it.
                _, self._chosen = await gateway.route(asking, cooling)
            begun = await gateway.attempts.begin(
                asking.call, self._chosen, cooling, reservation.half_open, self._is_paid_for
            )
            outcome = None
        except AetherError as exc:
            outcome, status = Outcome.FAILED, exc.status
            raise
        finally:
            if outcome is not None:
                # Refused, failed or cancelled before the answer began: nothing was written, and nothing is owed.
                self._settle(self._chosen.first, "", outcome, Usage(), is_estimated=False)
                self._note(status, None, 0.0)
        return self._answered(begun)

    def _is_paid_for(self, candidate: Candidate) -> bool:
        most = self._expected.usage
        return candidate.price_for(most.input).cost(most) <= self._expected.reserved

    def _answered(self, begun: Begun) -> Answered:
        asking, policy, reply = self._asking, self._policy, begun.reply
        route_header = header(self._chosen, begun.target.candidate, begun.failures)
        headers = [*reply.headers, *own_headers(asking, route_header, begun.waited_s)]
        if reply.notes:
            headers.append((b"x-aether-not-carried", "; ".join(reply.notes).encode("ascii", "replace")[:1000]))
        answered = Answered(
            headers, reservation=self._reservation, final_object=reply.final_object, error_event=reply.error_event
        )
        if reply.body is None:
            answered.pieces = self._follow(begun)
            return answered
        answered.body = reply.body
        self._end(begun, Outcome.COMPLETED, reply.body)
        if policy.cache_ttl_s:
            cached = Cached.of(reply.headers, reply.body)
            self._g.cache.keep(asking.caller.org_id, asking.call, cached, policy.cache_ttl_s)
        return answered

    async def _follow(self, begun: Begun) -> AsyncGenerator[bytes, None]:
        """The stream, and when it ends in whatever way the settlement."""
        reply, ttl_s = begun.reply, self._policy.cache_ttl_s
        assert reply.pieces is not None  # noqa: S101 - a reply has one of the two
        outcome = Outcome.ABORTED
        kept = bytearray()
        try:
            async with aclosing(reply.pieces) as pieces:
                async for piece in pieces:
                    if ttl_s and len(kept) <= AnswerCache.MAX_BYTES:
                        kept += piece
                    yield piece
            outcome = Outcome.COMPLETED
        except AetherError:
            outcome = Outcome.FAILED
            raise
        finally:
            self._end(begun, outcome, None)
        if ttl_s:
            cached = Cached.of(reply.headers, bytes(kept))
            self._g.cache.keep(self._asking.caller.org_id, self._asking.call, cached, ttl_s)

    def _end(self, begun: Begun, outcome: Outcome, body: bytes | None) -> None:
        tally = begun.reply.tally
        self._g.attempts.ended(begun.target, failed=outcome is Outcome.FAILED)
        usage = tally.usage
        # Of a stream that broke off the output is told by no one: its events are counted, about a token each.
        is_estimated = usage is None or not tally.is_whole
        if is_estimated:
            written = len(body) // 4 if body is not None else tally.events
            read = usage.input if usage else self._chosen.needs.input_tokens
            usage = Usage(read, max(written, usage.output if usage else 0))
        assert usage is not None  # noqa: S101 - estimated above when nobody told
        target = begun.target
        self._settle(target.candidate, target.credential.id, outcome, usage, is_estimated=is_estimated)
        self._note(begun.reply.status, body, begun.waited_s)

    def _settle(
        self, candidate: Candidate, credential: str, outcome: Outcome, usage: Usage, *, is_estimated: bool
    ) -> None:
        elapsed_s = time.perf_counter() - self._asking.started
        price, model = candidate.price_for(usage.input), candidate.model.id
        entry = replace(
            self._expected,
            model=model,
            provider=candidate.provider.id,
            credential=credential,
            outcome=outcome,
            usage=usage,
            is_estimated=is_estimated,
            cost=price.cost(usage, elapsed_s if price.gpu_second else 0.0),
            price=price,
            duration_ms=int(elapsed_s * 1000),
        )
        self._g.meter.finish(self._reservation, entry)
        metrics = self._g.metrics
        metrics.count("aether_gateway_calls", model=model, outcome=outcome.value)
        metrics.count("aether_gateway_tokens", usage.input, model=model, direction="in")
        metrics.count("aether_gateway_tokens", usage.output, model=model, direction="out")

    def _note(self, status: int, body: bytes | None, waited_s: float) -> None:
        mode = self._policy.log_mode
        if mode == "off":
            return
        asking, first = self._asking, self._chosen.first
        elapsed_s = time.perf_counter() - asking.started
        self._g.log.add(
            Logged(
                id=self._reservation.id,
                org_id=asking.caller.org_id,
                user_id=asking.caller.user_id,
                at=self._expected.at,
                model=first.model.id,
                provider=first.provider.id,
                dialect=asking.endpoint,
                status=status,
                duration_ms=int(elapsed_s * 1000),
                overhead_ms=(elapsed_s - waited_s) * 1000,
                request=asking.call.raw if mode == "full" else None,
                answer=body if mode == "full" else None,
            )
        )


def own_headers(asking: Asking, route_header: str, waited_s: float) -> Headers:
    """Why this model, and how long the request was with us before and beside the provider."""
    overhead_ms = (time.perf_counter() - asking.started - waited_s) * 1000
    return [
        (b"x-aether-route", route_header.encode("ascii", "replace")),
        (b"x-aether-overhead-ms", b"%.2f" % overhead_ms),
    ]
