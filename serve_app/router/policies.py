"""What an organisation has set for its calls to models: read in one round trip, remembered for a moment."""

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from configs.catalog import Catalog, ProviderEntry
from serve_app.core.clock import Clock
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import OrgId
from serve_app.core.domain.spending import Limit, Scope
from serve_app.core.errors import UnavailableError
from serve_app.core.services.bindings import Binding, Bindings, read_bindings
from serve_app.core.telemetry import get_logger
from serve_app.router.keyring import Credential, Keyring, OrgKey
from serve_app.router.view import View, build_view, read_own

_FRESH_S = 2.0
_STALE_S = 5.0
_USABLE_S = 60.0
_MAX_ORGANISATIONS = 2_000


class PolicyRepository(Protocol):
    async def policy(self, org_id: OrgId) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Policy:
    """One organisation's catalogue, limits and habits, as they were a moment ago."""

    view: View
    bindings: Bindings
    cache_ttl_s: int | None
    log_mode: Literal["off", "metadata", "full"]

    def binding(self, caller: Caller) -> Binding:
        """What stands over this caller's calls."""
        return self.bindings.of(caller.user_id, caller.key_id)


@dataclass
class _Held:
    policy: Policy
    read_at: float
    keyring_version: int
    reading: "asyncio.Task[Policy] | None" = None


class Policies:
    """A policy is at most five seconds old while the database answers, and a minute when it does not.

    In use it is read again every two seconds, and nobody waits for that.
    """

    def __init__(
        self,
        catalog: Catalog,
        repository: PolicyRepository,
        keyring: Keyring,
        clock: Clock,
        default_limit: Limit | None,
    ) -> None:
        self._catalog = catalog
        self._repository = repository
        self._keyring = keyring
        self._clock = clock
        self._default_limit = default_limit
        self._held: OrderedDict[OrgId, _Held] = OrderedDict()
        self._first: dict[OrgId, asyncio.Task[Policy]] = {}

    async def of(self, org_id: OrgId) -> Policy:
        """Raises `UnavailableError` when it cannot be read and is not remembered."""
        held = self._held.get(org_id)
        if held is None:
            return await self._read_first(org_id)
        age_s = self._clock.monotonic() - held.read_at
        if age_s < _FRESH_S and held.keyring_version == self._keyring.version:
            return held.policy
        if held.reading is None:
            # Nobody waits for a newer one as long as there is one that may still be used.
            held.reading = asyncio.create_task(self._read_again(org_id, held), name="read policy")
        if age_s < _STALE_S:
            return held.policy
        # It was not asked for in a while. Should the database be away, the old one is good for a minute.
        return await asyncio.shield(held.reading)

    async def close(self) -> None:
        tasks = [held.reading for held in self._held.values() if held.reading] + list(self._first.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_first(self, org_id: OrgId) -> Policy:
        task = self._first.get(org_id)
        if task is None:
            task = self._first[org_id] = asyncio.create_task(self._read(org_id), name="read policy")
            task.add_done_callback(lambda _: self._first.pop(org_id, None))
        return await asyncio.shield(task)

    async def _read_again(self, org_id: OrgId, held: _Held) -> Policy:
        try:
            return await self._read(org_id)
        except UnavailableError as exc:
            get_logger().warning("policy not read", reason=exc.message)
            if self._clock.monotonic() - held.read_at >= _USABLE_S:
                raise
            return held.policy
        finally:
            held.reading = None

    async def _read(self, org_id: OrgId) -> Policy:
        read_at, version = self._clock.monotonic(), self._keyring.version
        raw = await self._repository.policy(org_id)
        policy = self._build(org_id, raw)
        self._held[org_id] = _Held(policy, read_at, version)
        self._held.move_to_end(org_id)
        if len(self._held) > _MAX_ORGANISATIONS:
            self._held.popitem(last=False)
        return policy

    def _build(self, org_id: OrgId, raw: Mapping[str, Any]) -> Policy:
        own = read_own(raw["providers"], raw["models"], raw["aliases"])
        keys = [OrgKey(key["id"], key["provider"], base64.b64decode(key["sealed"])) for key in raw["keys"]]
        bindings = read_bindings(org_id, raw, self._default_limit)
        limits = bindings.limits

        def credentials(provider: ProviderEntry, own_only: bool) -> tuple[Credential, ...]:
            found = self._keyring.credentials(provider, org_id, keys, own_only=own_only)
            return tuple(replace(key, limit=limits.get(Scope("credential", key.id), key.limit)) for key in found)

        view = build_view(
            self._catalog,
            org_id,
            own,
            credentials,
            today=self._clock.now().date(),
        )
        if view.bad:
            get_logger().warning("catalogue entries left out", org_id=org_id, entries=view.bad)
        habits = raw["policy"]
        return Policy(view, bindings, habits["cache_ttl_s"], habits["log_mode"])
