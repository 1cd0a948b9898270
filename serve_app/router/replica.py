"""Everything one replica of the router owns: built from settings, started and closed in order."""

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack

from pydantic import SecretStr

from configs.catalog import Catalog
from configs.settings import GatewaySettings, Settings
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.db.repositories.keys import SqlKeyRepository
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.db.repositories.request_log import SqlRequestLogRepository
from serve_app.core.db.repositories.responses import SqlResponseRepository
from serve_app.core.domain.spending import Limit, Scope
from serve_app.core.services.callers import Authenticator, TicketSigner
from serve_app.core.services.metering import Meter
from serve_app.core.services.sealing import Sealer
from serve_app.core.stores.cache.redis import RedisCache
from serve_app.core.stores.limits.redis import RedisHealthStore, RedisLimitStore
from serve_app.core.stores.secrets.vault import VaultSecrets
from serve_app.core.telemetry import Metrics
from serve_app.router.app import RouterApp
from serve_app.router.attempts import Attempts
from serve_app.router.cache import AnswerCache
from serve_app.router.conversation import Conversations
from serve_app.router.endpoints import Endpoints
from serve_app.router.gateway import Gateway
from serve_app.router.housekeeping import Housekeeping
from serve_app.router.keyring import Keyring
from serve_app.router.loads import Loads
from serve_app.router.models import ModelList
from serve_app.router.policies import Policies
from serve_app.router.providers.local import Inference
from serve_app.router.request_log import RequestLog
from serve_app.router.upstream import Bounds, Upstream
from serve_app.router.ways import DialectWays

_PROBE_S = 15.0
"""A probe whose replica died tells nothing: so long until the next."""


class RouterReplica:
    """`app` is the ASGI application; its lifespan calls `start` and `close`, each of which may come twice."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        provider_keys: Mapping[str, SecretStr],
        inference: Inference,
        metrics: Metrics,
    ) -> None:
        clock = SystemClock()
        self._catalog = catalog
        self._closing = AsyncExitStack()
        self._has_started = False
        self._lock = asyncio.Lock()
        gateway, redis_url = settings.gateway, settings.redis_url
        bounds = Bounds(event_bytes=gateway.max_line_bytes, answer_bytes=gateway.max_answer_bytes)
        self._database = Database(
            settings.database_url, settings.database.pool_size, settings.database.connect_timeout_s
        )
        self._upstream = Upstream(bounds, allows_private=gateway.allow_private_providers)
        self._limits = RedisLimitStore(redis_url, f"router-{secrets.token_hex(6)}")
        self._health = RedisHealthStore(redis_url, probe_s=_PROBE_S)
        self._cached = RedisCache(redis_url)
        self._meter = Meter(self._limits, SqlLedgerRepository(self._database), metrics)
        self._vault = _vault(settings)
        self._keyring = Keyring(provider_keys, self._vault, Sealer(settings.sealing_keys))
        repository = SqlGatewayRepository(self._database)
        self._housekeeping = Housekeeping(repository)
        self._policies = Policies(catalog, repository, self._keyring, clock, _default_limit(gateway))
        self._cache = AnswerCache(self._cached)
        self._log = RequestLog(SqlRequestLogRepository(self._database))
        loads = Loads()
        ways = DialectWays(self._upstream, inference, bounds)
        attempts = Attempts(ways, self._keyring, self._meter, self._health, loads, clock, metrics)
        hub = Gateway(
            self._policies, attempts, self._meter, self._health, loads, self._cache, self._log, clock, metrics
        )
        endpoints = Endpoints(
            hub, Conversations(SqlResponseRepository(self._database), clock), ModelList(self._policies)
        )
        authenticator = Authenticator(SqlKeyRepository(self._database), TicketSigner(settings.secret_key, clock), clock)
        self.app = RouterApp(
            endpoints,
            authenticator,
            clock,
            settings.http.max_body_bytes,
            settings.http.preview_domain,
            gateway.send_stall_s,
            self,
        )

    async def start(self) -> None:
        """What is closed last is opened first: the ledger's last entries still need the database."""
        async with self._lock:
            if self._has_started:
                return
            closing = self._closing
            for resource in (self._database, self._limits, self._health, self._cached, self._upstream):
                closing.push_async_callback(resource.close)
            if self._vault is not None:
                closing.push_async_callback(self._vault.close)
                await self._vault.start()
            await self._keyring.start(self._catalog.providers)
            closing.push_async_callback(self._keyring.close)
            await self._meter.start()
            closing.push_async_callback(self._meter.close)
            await self._housekeeping.start()
            for owner in (self._housekeeping, self._cache, self._log, self._policies):
                closing.push_async_callback(owner.close)
            self._has_started = True

    async def close(self) -> None:
        await self._closing.aclose()


def _vault(settings: Settings) -> VaultSecrets | None:
    vault = settings.vault
    if vault.address is None:
        return None
    token = vault.token.get_secret_value() if vault.token else None
    return VaultSecrets(vault.address, token, namespace=vault.namespace, ca_file=vault.ca_file)


def _default_limit(gateway: GatewaySettings) -> Limit | None:
    """For organisations without a limit of their own; the scope is theirs, put in where it is used."""
    given = (gateway.requests_per_minute, gateway.tokens_per_minute, gateway.concurrency)
    return Limit(Scope("organisation", "*"), *given) if any(given) else None
