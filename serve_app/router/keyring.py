"""The keys providers are called with: the platform's from the environment or a vault, organisations' own opened."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from configs.catalog import CredentialSource, ProviderEntry
from serve_app.core.domain.ids import OrgId
from serve_app.core.domain.spending import Limit, Scope
from serve_app.core.errors import AetherError, CorruptedError
from serve_app.core.services.sealing import Sealer, seal_context
from serve_app.core.stores.secrets.base import SecretSource
from serve_app.core.telemetry import get_logger

_REFRESH_S = 300.0
_READ_AGAIN_S = 5.0
"""While a value is missing."""
_MOST_OPENED = 10_000
_MOST_GROUPS = 10_000


@dataclass(frozen=True, slots=True)
class Credential:
    """`id` is stable and tells nothing secret: `env:OPENAI_API_KEY`, `vault:kv/openai#key`, `pky_…`, `none:local`."""

    id: str
    provider: str
    secret: SecretStr | None = None
    """None for a provider that needs no key."""
    limit: Limit | None = None
    """What goes through this key at most, over all who use it."""


@dataclass(frozen=True, slots=True)
class OrgKey:
    """A key an organisation stored; `sealed` is the output of `Sealer.seal` with `seal_context(org_id, provider)`."""

    id: str
    provider: str
    sealed: bytes


class Keyring:
    """`env_keys` are the variables the catalogue names, as far as they are set."""

    def __init__(
        self,
        env_keys: Mapping[str, SecretStr],
        vault: SecretSource | None,
        sealer: Sealer,
        *,
        refresh_s: float = _REFRESH_S,
    ) -> None:
        self.version = 0
        """Grows when the vault gave other values: credentials handed out before are old, views must be built anew."""
        self._env_keys = env_keys
        self._vault = vault
        self._sealer = sealer
        self._refresh_s = refresh_s
        self._places: list[str] = []
        self._read: dict[str, SecretStr] = {}
        self._opened: dict[tuple[str, OrgId, bytes], SecretStr | None] = {}
        self._turns: Counter[str] = Counter()
        self._in_use: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None

    async def start(self, providers: Sequence[ProviderEntry]) -> None:
        """Read the vault's values once, then in the background; one that cannot be read is a missing key, and logged."""
        self._places = [source.vault for provider in providers for source in provider.credentials if source.vault]
        if not self._places:
            return
        if self._vault is None:
            get_logger().warning("no vault is set for keys the catalogue keeps in one", places=self._places)
            return
        await self._read_all(self._vault)
        self._task = asyncio.create_task(self._keep_reading(self._vault), name="vault keys")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def credentials(
        self, provider: ProviderEntry, org_id: OrgId, org_keys: Sequence[OrgKey], *, own_only: bool = False
    ) -> tuple[Credential, ...]:
        """An organisation's own keys if it has any for the provider, else the platform's unless `own_only`.

        Empty: the provider cannot be used. Not for the hot path: call it when a view is built.
        """
        stored = [key for key in org_keys if key.provider == provider.id]
        if stored:
            opened = ((key.id, self._open(org_id, key)) for key in stored)
            return tuple(Credential(id_, provider.id, secret) for id_, secret in opened if secret)
        if not provider.needs_key:
            # Two organisations' servers may have one name: the health of one is not that of the other.
            return (Credential(f"none:{org_id}/{provider.id}" if own_only else f"none:{provider.id}", provider.id),)
        return () if own_only else tuple(self._platform_keys(provider))

    def take(
        self, provider: ProviderEntry, credentials: Sequence[Credential], cooling: Mapping[str, float]
    ) -> Credential | None:
        """The next key by the provider's strategy, skipping those in `cooling` (credential id → seconds left), which is
        `Candidate.resting` of the model in question.

        None when all cool down. Give it back when the call has ended.
        """
        ready = [credential for credential in credentials if credential.id not in cooling]
        if not ready:
            return None
        chosen = ready[0]
        if len(ready) > 1:
            group = credentials[0].id
            if len(self._turns) >= _MOST_GROUPS:
                self._turns.clear()
            turn = self._turns[group]
            self._turns[group] = turn + 1
            if provider.strategy == "least_busy":
                # Begin at another key each time: else the first gets every call of a quiet hour.
                ready = ready[turn % len(ready) :] + ready[: turn % len(ready)]
                chosen = min(ready, key=lambda credential: self._in_use[credential.id])
            else:
                chosen = ready[turn % len(ready)]
        self._in_use[chosen.id] += 1
        return chosen

    def give_back(self, credential: Credential) -> None:
        left = self._in_use[credential.id] - 1
        if left > 0:
            self._in_use[credential.id] = left
        else:
            del self._in_use[credential.id]

    def _platform_keys(self, provider: ProviderEntry) -> Iterator[Credential]:
        for source in provider.credentials:
            if secret := self._find(source):
                name = f"env:{source.env}" if source.env else f"vault:{source.vault}"
                given = (source.requests_per_minute, source.tokens_per_minute, source.concurrency)
                limit = Limit(Scope("credential", name), *given) if any(given) else None
                yield Credential(name, provider.id, secret, limit)

    def _find(self, source: CredentialSource) -> SecretStr | None:
        return self._env_keys.get(source.env) if source.env else self._read.get(source.vault or "")

    def _open(self, org_id: OrgId, key: OrgKey) -> SecretStr | None:
        known = (key.id, org_id, key.sealed)
        if known not in self._opened:
            if len(self._opened) >= _MOST_OPENED:
                self._opened.clear()
            self._opened[known] = self._unseal(org_id, key)
        return self._opened[known]

    def _unseal(self, org_id: OrgId, key: OrgKey) -> SecretStr | None:
        try:
            return SecretStr(self._sealer.open(key.sealed, seal_context(org_id, key.provider)).decode())
        except (CorruptedError, UnicodeDecodeError) as exc:
            get_logger().error(
                "a provider key cannot be opened", key_id=key.id, org_id=org_id, reason=type(exc).__name__
            )
            return None

    async def _keep_reading(self, vault: SecretSource) -> None:
        while True:
            is_whole = all(place in self._read for place in self._places)
            await asyncio.sleep(self._refresh_s if is_whole else min(_READ_AGAIN_S, self._refresh_s))
            await self._read_all(vault)

    async def _read_all(self, vault: SecretSource) -> None:
        found = await asyncio.gather(*(self._read_one(vault, place) for place in self._places))
        now = dict(self._read)
        now.update({place: secret for place, secret in zip(self._places, found, strict=True) if secret})
        if now != self._read:
            self._read = now
            self.version += 1

    @staticmethod
    async def _read_one(vault: SecretSource, place: str) -> SecretStr | None:
        """None keeps the value from before: a vault that is away takes no key with it."""
        try:
            return SecretStr(await vault.read(place))
        except AetherError as exc:
            get_logger().warning("a key was not read from the vault", place=place, code=exc.code, reason=exc.message)
            return None
