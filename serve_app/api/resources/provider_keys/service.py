"""Provider keys are sealed before they are stored, for one organisation and one provider."""

import hashlib

from configs.catalog import LOCAL
from serve_app.api.deps import Services
from serve_app.api.problems import invalid_field
from serve_app.api.resources.provider_keys.schemas import ProviderKeyIn
from serve_app.core.db.repositories.gateway import ProviderKey
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import new_provider_key_id
from serve_app.core.services.sealing import seal_context

_FINGERPRINT_CHARS = 12


async def add(services: Services, caller: Caller, given: ProviderKeyIn) -> ProviderKey:
    await _must_take_keys(services, caller, given.provider)
    secret = given.key.get_secret_value().encode()
    return await services.gateway.add_provider_key(
        caller.org_id,
        new_provider_key_id(),
        given.provider,
        given.name,
        services.sealer.seal(secret, seal_context(caller.org_id, given.provider)),
        hashlib.sha256(secret).hexdigest()[:_FINGERPRINT_CHARS],
    )


async def _must_take_keys(services: Services, caller: Caller, provider: str) -> None:
    if provider == LOCAL:
        raise invalid_field("provider", "models this platform runs take no key")
    if any(entry.id == provider for entry in services.catalog.providers):
        return
    if await services.gateway.entry(caller.org_id, "provider", provider) is None:
        raise invalid_field("provider", f"there is no provider {provider!r}")
