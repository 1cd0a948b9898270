"""Which keys a provider is called with, and in what turn."""

from collections import Counter

import pytest
from pydantic import SecretStr

from configs.catalog import ProviderEntry
from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import MisconfiguredError, UnavailableError
from serve_app.core.services.sealing import Sealer, seal_context
from serve_app.router.keyring import Credential, Keyring, OrgKey
from tests.unit.router.catalogs import ORG, provider

SEALER = Sealer([b"m" * 32])
VENDOR = ProviderEntry.model_validate(
    provider("vendor", credentials=[{"env": "ONE"}, {"env": "TWO"}, {"env": "UNSET"}])
)
KEYRING = Keyring({"ONE": SecretStr("sk-one"), "TWO": SecretStr("sk-two")}, None, SEALER)


def stored(id_: str, secret: str, org_id: OrgId = ORG, provider_id: str = "vendor") -> OrgKey:
    return OrgKey(id_, provider_id, SEALER.seal(secret.encode(), seal_context(org_id, provider_id)))


def test_the_platforms_keys_as_far_as_they_are_set() -> None:
    found = KEYRING.credentials(VENDOR, ORG, [])
    assert [(key.id, key.secret and key.secret.get_secret_value()) for key in found] == [
        ("env:ONE", "sk-one"),
        ("env:TWO", "sk-two"),
    ]


def test_an_organisations_own_keys_take_their_place() -> None:
    found = KEYRING.credentials(VENDOR, ORG, [stored("pky_1", "sk-own"), stored("pky_2", "x", provider_id="else")])
    assert [key.id for key in found] == ["pky_1"]
    assert found[0].secret == SecretStr("sk-own")
    assert KEYRING.credentials(VENDOR, ORG, [], own_only=True) == ()


def test_a_key_of_somebody_else_does_not_open_and_ours_does_not_stand_in() -> None:
    copied = stored("pky_1", "sk-theirs", org_id=OrgId("org_2"))
    assert KEYRING.credentials(VENDOR, ORG, [copied]) == ()
    assert KEYRING.credentials(VENDOR, ORG, [OrgKey("pky_1", "vendor", b"rubbish")]) == ()


def test_no_key_is_needed_where_none_is() -> None:
    free = ProviderEntry.model_validate(provider("free", needs_key=False))
    assert [key.id for key in KEYRING.credentials(free, ORG, [])] == ["none:free"]
    assert [key.id for key in KEYRING.credentials(free, ORG, [], own_only=True)] == [f"none:{ORG}/free"]


def test_a_secret_is_never_shown() -> None:
    found = KEYRING.credentials(VENDOR, ORG, [stored("pky_1", "sk-own")])
    assert "sk-own" not in repr(found)
    assert "sk-own" not in str(found)
    assert "sk-one" not in repr(KEYRING.credentials(VENDOR, ORG, []))


def test_keys_take_turns_and_those_at_rest_are_skipped() -> None:
    keyring = Keyring({}, None, SEALER)
    keys = [Credential(name, "vendor") for name in "abc"]
    assert Counter(key.id for _ in range(9) if (key := keyring.take(VENDOR, keys, {}))) == {"a": 3, "b": 3, "c": 3}
    assert Counter(key.id for _ in range(8) if (key := keyring.take(VENDOR, keys, {"b": 4.0}))) == {"a": 4, "c": 4}
    assert keyring.take(VENDOR, keys, dict.fromkeys("abc", 1.0)) is None
    assert keyring.take(VENDOR, [], {}) is None


def test_the_least_busy_key_is_taken() -> None:
    busy = VENDOR.model_copy(update={"strategy": "least_busy"})
    keyring = Keyring({}, None, SEALER)
    keys = [Credential(name, "vendor") for name in "abc"]
    taken = [keyring.take(busy, keys, {}) for _ in range(3)]
    assert {key.id for key in taken if key} == {"a", "b", "c"}
    keyring.give_back(keys[1])
    again = keyring.take(busy, keys, {})
    assert again is not None
    assert again.id == "b"
    for _ in range(5):
        keyring.give_back(keys[0])


class Vault:
    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.error: Exception | None = None

    async def read(self, place: str) -> str:
        if self.error:
            raise self.error
        return self.values[place]

    async def check(self) -> None: ...

    async def close(self) -> None: ...


@pytest.mark.parametrize("error", [UnavailableError("away"), MisconfiguredError("no")])
async def test_a_vault_that_fails_is_a_missing_key_and_no_crash(error: Exception) -> None:
    vault = Vault()
    vault.error = error
    entry = ProviderEntry.model_validate(provider("vendor", credentials=[{"vault": "kv/x#key"}]))
    keyring = Keyring({}, vault, SEALER)
    await keyring.start([entry])
    assert keyring.credentials(entry, ORG, []) == ()
    assert keyring.version == 0
    await keyring.close()


async def test_keys_in_a_vault_nobody_named_are_missing() -> None:
    entry = ProviderEntry.model_validate(provider("vendor", credentials=[{"vault": "kv/x#key"}]))
    keyring = Keyring({}, None, SEALER)
    await keyring.start([entry])
    assert keyring.credentials(entry, ORG, []) == ()
    await keyring.close()
