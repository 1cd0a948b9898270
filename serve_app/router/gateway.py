"""One call to a model through everything it passes: choice, limits and budgets, the provider, the ledger."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
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
from serve_app.router.headers import printable
from serve_app.router.loads import Loads
from serve_app.router.needs import Endpoint, needs_of
from serve_app.router.policies import Policies, Policy
from serve_app.router.policy import Route, header, route
from serve_app.router.providers.base import Call, Pieces
from serve_app.router.request_log import Logged, RequestLog
from serve_app.router.view import Candidate
from serve_app.router.ways import dialects_of

Headers = list[tuple[bytes, bytes]]

_MOST_TOKENS = 10**9
"""More is no count of tokens: what a provider tells ends up in sums."""


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
    pieces: Pieces | None = None
    reservation: Reservation | None = None
    """For the headers that tell a client its limits."""
    final_object: Callable[[], Mapping[str, Any] | None] | None = None
    error_event: Callable[[AetherError], bytes] | None = None
    is_cached: bool = False
    on_sent: Callable[[], None] | None = None

    def settle(self) -> None:
        """A whole answer is paid for: call it when it was sent, or before anything else is waited for, which may be
        cancelled. A client waits for none of this. A second time does nothing."""
        pending, self.on_sent = self.on_sent, None
        if pending is not None:
            pending()


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
        policy = await self._policies.of(asking.caller.org_id)
        # It costs nothing, and takes its place under the limits of requests like every call.
        place = Demand(id=new_ledger_id(), limits=policy.binding(asking.caller).limits)
        reservation = await self.meter.admit(place)
        try:
            begun = await self.attempts.begin(asking.call, chosen, reservation.cooldowns)
            self.attempts.ended(begun.target, failed=False)
        finally:
            self.meter.release(reservation)
        return Answered(begun.reply.headers, body=begun.reply.body, reservation=reservation)

    async def answer(self, asking: Asking) -> Answered:
        """Raises `AetherError`; nothing is held or owed then."""
        policy, chosen = await self.route(asking)
        if policy.cache_ttl_s and (hit := await self.cache.find(asking.caller.org_id, asking.call, chosen.first.key)):
            return await self._from_cache(asking, policy, chosen, hit)
        demand, expected = self._demand(asking, policy, chosen)
        reservation = await self.meter.admit(demand)
        passage = _Call(self, asking, policy, reservation, expected, chosen)
        return await passage.begin()

    def _demand(self, asking: Asking, policy: Policy, chosen: Route) -> tuple[Demand, LedgerEntry]:
        """What this call may take at most, and its entry as it would be should this process die."""
        caller, needs, first = asking.caller, chosen.needs, chosen.first
        binding = policy.binding(caller)
        chains = chosen.stand_ins
        reachable = (*chosen.candidates, *chains)
        most = Usage(input=needs.input_tokens, output=_most_written(asking, chosen, first))
        # For the first and those named to stand in for it. Others an alias may fall back to must not cost more.
        cost = max(_worst_cost(asking, chosen, candidate) for candidate in (first, *chains))
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
            groups=binding.groups,
        )
        demand = Demand(
            id=entry.id,
            limits=binding.limits,
            budgets=binding.budgets,
            tokens=most.input + most.output,
            health=tuple({credential.id for candidate in reachable for credential in candidate.credentials}),
            entry=entry,
        )
        return demand, entry

    async def _from_cache(self, asking: Asking, policy: Policy, chosen: Route, hit: Cached) -> Answered:
        """It costs nothing, but is a request like others to the limits, and an entry in the ledger."""
        demand, expected = self._demand(asking, policy, chosen)
        free = replace(expected, cost=0, reserved=0, usage=Usage(), is_estimated=False, outcome=Outcome.CACHED)
        reservation = await self.meter.admit(replace(demand, budgets=(), tokens=0, entry=free))
        self.meter.finish(reservation, free)
        self.metrics.count("aether_gateway_calls", model=free.model, outcome=free.outcome.value)
        headers = [*hit.headers, (b"x-aether-cache", b"hit"), overhead_header(asking, 0.0)]
        return Answered(headers, body=hit.body, reservation=reservation, is_cached=True)


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
        self._priced = chosen.first
        """What is reserved was reckoned for it."""

    async def begin(self) -> Answered:
        gateway, asking, reservation = self._g, self._asking, self._reservation
        outcome: Outcome | None = Outcome.ABORTED
        status = 499
        # A call whose client left may have been read already, and is then paid for.
        usage = Usage(input=self._chosen.needs.input_tokens)
        try:
            cooling = reservation.cooldowns
            if self._chosen.first.resting(cooling):
                # Known only now, by the round trip that asked the limits: choose again with it.
                _, self._chosen = await gateway.route(asking, cooling)
            begun = await gateway.attempts.begin(
                asking.call, self._chosen, cooling, reservation.half_open, self._is_paid_for
            )
            outcome = None
        except AetherError as exc:
            outcome, status, usage = Outcome.FAILED, exc.status, Usage()
            raise
        finally:
            if outcome is not None:
                self._settle(self._chosen.first, "", outcome, usage, is_estimated=outcome is Outcome.ABORTED)
                self._note(self._chosen.first, status, None, 0.0)
        return self._answered(begun)

    def _is_paid_for(self, candidate: Candidate) -> bool:
        if candidate is self._priced:
            return True
        return _worst_cost(self._asking, self._chosen, candidate) <= self._expected.reserved

    def _answered(self, begun: Begun) -> Answered:
        asking, reply = self._asking, begun.reply
        told = header(self._chosen, begun.target.candidate, begun.failures)
        lasting = [*reply.headers, (b"x-aether-route", printable(told))]
        if reply.notes:
            lasting.append((b"x-aether-not-carried", printable("; ".join(reply.notes)[:1000])))
        answered = Answered(
            [*lasting, overhead_header(asking, begun.waited_s)],
            reservation=self._reservation,
            final_object=reply.final_object,
            error_event=reply.error_event,
        )
        if reply.pieces is not None:
            answered.pieces = _Followed(self, begun, reply.pieces, lasting)
            return answered
        answered.body = reply.body
        answered.on_sent = partial(self._end_whole, begun, lasting, reply.body or b"")
        return answered

    def _end_whole(self, begun: Begun, headers: Headers, body: bytes) -> None:
        self.end(begun, Outcome.COMPLETED, body)
        self.keep(headers, body)

    @property
    def keeps(self) -> bool:
        return bool(self._policy.cache_ttl_s)

    def keep(self, headers: Headers, body: bytes) -> None:
        """Remember the answer, if this organisation wants that."""
        if ttl_s := self._policy.cache_ttl_s:
            org_id, call = self._asking.caller.org_id, self._asking.call
            self._g.cache.keep(org_id, call, self._chosen.first.key, Cached(tuple(headers), body), ttl_s)

    def end(self, begun: Begun, outcome: Outcome, body: bytes | None) -> None:
        """The answer is over, in whatever way."""
        tally, target = begun.reply.tally, begun.target
        usage = tally.usage
        # Of a stream that broke off the output is told by no one: its events are counted, about a token each.
        is_estimated = usage is None or not tally.is_whole or tally.has_failed
        if usage is None or is_estimated:
            written = len(body) // 4 if body is not None else tally.events
            read = usage.input if usage else self._chosen.needs.input_tokens
            usage = Usage(read, max(written, usage.output if usage else 0))
        self._g.attempts.ended(target, failed=outcome is Outcome.FAILED, tokens=usage.input + usage.output)
        self._settle(target.candidate, target.credential.id, outcome, usage, is_estimated=is_estimated)
        self._note(target.candidate, begun.reply.status, body, begun.waited_s)

    def _settle(
        self, candidate: Candidate, credential: str, outcome: Outcome, usage: Usage, *, is_estimated: bool
    ) -> None:
        elapsed_s = time.perf_counter() - self._asking.started
        # JSON's `true` is an int as well, and the ledger takes none of it.
        told = (usage.input, usage.output, usage.cached, usage.cache_written, usage.reasoning)
        usage = Usage(*(int(min(tokens, _MOST_TOKENS)) for tokens in told))
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
            duration_ms=math.ceil(elapsed_s * 1000),
        )
        self._g.meter.finish(self._reservation, entry)
        metrics = self._g.metrics
        metrics.count("aether_gateway_calls", model=model, outcome=outcome.value)
        metrics.count("aether_gateway_tokens", usage.input, model=model, direction="in")
        metrics.count("aether_gateway_tokens", usage.output, model=model, direction="out")

    def _note(self, candidate: Candidate, status: int, body: bytes | None, waited_s: float) -> None:
        mode = self._policy.log_mode
        if mode == "off":
            return
        asking = self._asking
        elapsed_s = time.perf_counter() - asking.started
        self._g.log.add(
            Logged(
                id=self._reservation.id,
                org_id=asking.caller.org_id,
                user_id=asking.caller.user_id,
                at=self._expected.at,
                model=candidate.model.id,
                provider=candidate.provider.id,
                dialect=asking.endpoint,
                status=status,
                duration_ms=math.ceil(elapsed_s * 1000),
                overhead_ms=(elapsed_s - waited_s) * 1000,
                request=asking.call.body if mode == "full" else None,
                answer=body if mode == "full" else None,
            )
        )


class _Followed(Pieces):
    """A stream, and the settlement of its call when it ends in whatever way."""

    def __init__(self, call: _Call, begun: Begun, pieces: Pieces, headers: Headers) -> None:
        self._call = call
        self._begun = begun
        self._pieces = pieces
        self._headers = headers
        self._kept: bytearray | None = bytearray() if call.keeps else None
        self._is_over = False

    async def __anext__(self) -> bytes:
        if self._is_over:
            raise StopAsyncIteration
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self._end(Outcome.FAILED if self._begun.reply.tally.has_failed else Outcome.COMPLETED)
            raise
        except AetherError:
            self._end(Outcome.FAILED)
            raise
        if self._kept is not None:
            self._kept += piece
            if len(self._kept) > AnswerCache.MAX_BYTES:
                self._kept = None
        return piece

    async def aclose(self) -> None:
        tally = self._begun.reply.tally
        if not self._is_over:
            # A client that has seen the last event may leave before the stream is closed behind it.
            self._end(Outcome.COMPLETED if tally.is_whole and not tally.has_failed else Outcome.ABORTED)
        await self._pieces.aclose()

    def _end(self, outcome: Outcome) -> None:
        self._is_over = True
        self._call.end(self._begun, outcome, None)
        tally = self._begun.reply.tally
        if outcome is Outcome.COMPLETED and tally.is_complete and self._kept is not None:
            self._call.keep(self._headers, bytes(self._kept))


def overhead_header(asking: Asking, waited_s: float) -> tuple[bytes, bytes]:
    """How long the request was with us, before and beside the provider."""
    return b"x-aether-overhead-ms", b"%.2f" % ((time.perf_counter() - asking.started - waited_s) * 1000)


def _most_written(asking: Asking, chosen: Route, candidate: Candidate) -> int:
    """Tokens this candidate may write at most, over all answers that were asked for."""
    answers = asking.call.raw.get("n")
    count = answers if asking.endpoint == "openai-chat" and isinstance(answers, int) and answers > 1 else 1
    return count * (chosen.needs.output_tokens or candidate.model.max_output_tokens)


def _worst_cost(asking: Asking, chosen: Route, candidate: Candidate) -> int:
    read = chosen.needs.input_tokens
    most = Usage(input=read, output=_most_written(asking, chosen, candidate))
    return candidate.price_for(read).worst(most, candidate.provider.timeouts.total)
