"""Limits and health in Redis or Valkey: every decision is one script, on the server's own clock."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

from serve_app.core.domain.spending import Budget, Demand
from serve_app.core.stores.limits.base import Held, Taken, UnregisteredError, Unsettled, Verdict
from serve_app.core.stores.limits.line import Line, UnknownScriptError
from serve_app.core.stores.limits.wire import (
    budget_expiry_ms,
    budget_key,
    decode_cooldowns,
    decode_verdict,
    encode_control,
)
from serve_app.core.stores.redis import answered, attach, connect, greeting, is_unknown_script

_TIMEOUT_S = 5.0
_PAGE = 500


class _Script:
    def __init__(self, name: str) -> None:
        here = Path(__file__).parent
        self.text = (here / "shared.lua").read_text("utf-8") + (here / f"{name}.lua").read_text("utf-8")
        # The server names a script by this digest; it protects nothing.
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RedisLimitStore:
    """`url` is `redis://`, `rediss://` or `unix://`. One object a replica, whose name nobody else has or had.

    A replica is dead that has not been heard of for `dead_after_s`. A server that forgot everything gives all the
    others `grace_s` to register before a budget is loaded: some beats.
    """

    def __init__(
        self, url: str, replica_id: str, *, namespace: str = "aether", dead_after_s: float = 20.0, grace_s: float = 3.0
    ) -> None:
        self._line = Line(partial(attach, url), greeting(url), _TIMEOUT_S)
        self._namespace = namespace
        self._replica = replica_id
        self._dead_after_ms = int(dead_after_s * 1000)
        self._grace_ms = int(grace_s * 1000)
        self._epoch: str | bytes = ""
        self._exchange, self._register, self._recover = _Script("exchange"), _Script("register"), _Script("recover")
        self._beat, self._unsettled, self._load = _Script("beat"), _Script("unsettled"), _Script("load")

    def hold(self, demand: Demand, entry: bytes) -> Held:
        return Held(demand.id, encode_control(demand), entry, cost=demand.cost)

    async def exchange(
        self, finished: Sequence[Held], settled: Sequence[Held], asked: Sequence[tuple[Held, Demand]]
    ) -> list[Verdict]:
        arguments: list[Any] = [len(finished), len(settled), len(asked)]
        for held in finished:
            arguments += (held.id, held.tokens, held.entry)
        for held in settled:
            arguments += (held.id, held.cost)
        for held, _ in asked:
            arguments += (held.control, held.entry)
        answers = await self._run(self._exchange, arguments)
        return [decode_verdict(answer, demand) for answer, (_, demand) in zip(answers, asked, strict=True)]

    async def register(self, held: Sequence[Held]) -> bool:
        # What was taken over, or is only freed, is not this replica's to hold.
        own = [one for one in held if one.control]
        arguments: list[Any] = [len(own)]
        for one in own:
            arguments += ("f" if one.is_finished else "o", one.control, one.entry)
        self._epoch, was_dead = await self._run(self._register, arguments)
        return not was_dead

    async def beat(self) -> list[Taken]:
        found = await self._run(self._beat, [self._dead_after_ms, _PAGE])
        return [Taken(found[at].decode(), found[at + 1]) for at in range(0, len(found), 2)]

    async def strays(self, known: Sequence[str]) -> tuple[list[str], list[Taken]]:
        name = f"{self._namespace}:open:{self._replica}"
        ids = {one.decode() for one in await self._line.call("HKEYS", name)}
        strays = list(ids.difference(known))[:_PAGE]
        records = await self._line.call("HMGET", name, *strays) if strays else []
        opened, finished = [], []
        for one, record in zip(strays, records, strict=True):
            if record and record.startswith(b"f"):
                finished.append(Taken(one, record.partition(b"\n")[2]))
            elif record:
                opened.append(one)
        return opened, finished

    async def unsettled(self, budget: Budget, at: datetime) -> Unsettled | float:
        found = await self._run(self._unsettled, [self._grace_ms, budget_key(budget, at)])
        if found[0]:
            return float(found[0]) / 1000
        return Unsettled([one.decode() for one in found[2:]], int(found[1]))

    async def load(self, budget: Budget, at: datetime, spent: int, generation: int) -> None:
        await self._run(self._load, [budget_key(budget, at), spent, generation, budget_expiry_ms(budget, at)])

    async def close(self) -> None:
        await self._line.close()

    async def _run(self, script: _Script, arguments: Sequence[Any]) -> Any:
        call, own = self._line.call, (self._namespace, self._replica, self._epoch)
        try:
            answer = await call("EVALSHA", script.digest, 0, *own, *arguments)
        except UnknownScriptError:
            # Scripts do not outlive the server's process. What else it has may be older than what we know.
            await call("EVAL", self._recover.text, 0, *own)
            for each in (self._exchange, self._register, self._beat, self._unsettled, self._load):
                await call("SCRIPT", "LOAD", each.text)
            answer = await call("EVALSHA", script.digest, 0, *own, *arguments)
        if answer == b"unregistered":
            raise UnregisteredError
        return answer


class RedisHealthStore:
    """Seconds throughout. A breaker opens at `threshold` failures within `window_s`, for `cooldown_s`, and for twice
    as long each time a probe fails. A provider's retries are `retry_share` of its requests and `retries_per_s`."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "aether",
        threshold: int = 5,
        window_s: float = 30.0,
        cooldown_s: float = 5.0,
        longest_s: float = 300.0,
        probe_s: float = 60.0,
        retry_share: float = 0.1,
        retries_per_s: float = 10.0,
    ) -> None:
        self._redis = connect(url)
        self._namespace = namespace
        self._breaker = (threshold, int(window_s * 1000), int(cooldown_s * 1000), int(longest_s * 1000))
        self._probe_ms = int(probe_s * 1000)
        self._retry_share = retry_share
        self._retries_per_s = retries_per_s
        self._began: dict[str, int] = {}
        self._script = _Script("health")

    async def fail(self, key: str) -> float:
        return float(await self._run("fail", key, *self._breaker)) / 1000

    async def cool(self, key: str, seconds: float, model: str | None = None) -> None:
        await self._run("cool", key, int(seconds * 1000), *([] if model is None else [model]))

    async def probe(self, key: str, ticket: str) -> bool:
        return bool(await self._run("probe", key, self._probe_ms, ticket))

    async def release(self, key: str, ticket: str) -> None:
        await self._run("release", key, ticket)

    async def succeed(self, key: str) -> None:
        await self._run("succeed", key)

    async def cooldowns(self, keys: Sequence[str]) -> tuple[Mapping[str, float], frozenset[str]]:
        return decode_cooldowns(keys, await self._run("cooldowns", *keys)) if keys else ({}, frozenset())

    def began(self, provider: str) -> None:
        self._began[provider] = self._began.get(provider, 0) + 1

    async def may_retry(self, provider: str) -> bool:
        deposit = self._began.pop(provider, 0) * self._retry_share
        most = max(self._retries_per_s, 1.0) * 10
        return bool(await self._run("retry", provider, deposit, self._retries_per_s, most))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _run(self, what: str, *arguments: Any) -> Any:
        own = (self._namespace, "", "", what)
        async with answered(_TIMEOUT_S):
            try:
                return await self._redis.execute_command("EVALSHA", self._script.digest, 0, *own, *arguments)
            except Exception as exc:
                if not is_unknown_script(exc):
                    raise
                return await self._redis.execute_command("EVAL", self._script.text, 0, *own, *arguments)
