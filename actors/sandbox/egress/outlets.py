"""The ways out of all sandboxes of one pool: what they share, and a desk for each sandbox whose profile has one."""

import asyncio
import ssl
from collections import OrderedDict

from actors.sandbox.egress.broker import Broker
from actors.sandbox.egress.budget import Allowance, Pace
from actors.sandbox.egress.conversation import Bounds, Conversation, Party
from actors.sandbox.egress.desk import EgressDesk
from actors.sandbox.egress.dialling import Dialler
from actors.sandbox.egress.journal import Journal
from actors.sandbox.egress.links import Offers
from actors.sandbox.egress.names import Names, Resolver, SystemResolver
from actors.sandbox.egress.targets import Allowlist
from configs.sandboxes import Profiles
from serve_app.core.clock import Clock, SystemClock
from serve_app.core.domain.addresses import Reach
from serve_app.core.domain.connectors import ConnectorSource
from serve_app.core.domain.ids import SandboxId
from serve_app.core.domain.sandboxes import Sandbox
from serve_app.core.telemetry.metrics import Metrics

_LOOKUPS = 4
_MOST_REMEMBERED = 10_000


class EgressOutlets:
    """Closed by whoever made it, after all of its desks."""

    def __init__(
        self,
        profiles: Profiles,
        connectors: ConnectorSource,
        metrics: Metrics,
        clock: Clock | None = None,
        *,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        reach: Reach | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """`reach` widens (for tests) or narrows (the cluster's own networks) what may be connected to; `tls` is for
        the hosts of connectors, and says whose certificates are trusted."""
        reach = reach or Reach()
        self._profiles = profiles
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._bounds = bounds or Bounds()
        self._names = Names(resolver or SystemResolver(), reach, self._clock, timeout_s=self._bounds.resolve_s)
        self._dialler = Dialler(
            self._names, reach, tls or ssl.create_default_context(), timeout_s=self._bounds.connect_s
        )
        self._broker = Broker(connectors, self._clock)
        self._allowances: OrderedDict[SandboxId, Allowance] = OrderedDict()

    def open(self, sandbox: Sandbox, offers: Offers) -> EgressDesk | None:
        """None: the sandbox's profile has no way out."""
        profile = self._profiles.find(sandbox.profile)
        if profile is None or not profile.has_way_out:
            return None
        allowance = self._allowance(sandbox.id, profile.egress.bytes)
        party = Party(
            org_id=sandbox.org_id,
            allowlist=Allowlist(profile.egress.allow, profile.egress.ports),
            may_use_connectors=profile.may_use_connectors,
            allowance=allowance,
            journal=Journal(sandbox.org_id, sandbox.id, allowance, self._clock, self._metrics),
            pace=Pace(self._clock, per_s=self._bounds.requests_per_s, burst=self._bounds.requests_burst),
            lookups=asyncio.Semaphore(_LOOKUPS),
        )
        return EgressDesk(
            offers,
            party,
            lambda: Conversation(party, self._dialler, self._broker, self._bounds),
            self._bounds,
            places=profile.egress.connections,
        )

    def _allowance(self, sandbox_id: SandboxId, limit_bytes: int) -> Allowance:
        """What is used up stays so when a sandbox was stored and comes back to this node."""
        allowance = self._allowances.setdefault(sandbox_id, Allowance(limit_bytes))
        self._allowances.move_to_end(sandbox_id)
        while len(self._allowances) > _MOST_REMEMBERED:
            self._allowances.popitem(last=False)
        return allowance

    async def close(self) -> None:
        self._broker.close()
        await self._names.close()
