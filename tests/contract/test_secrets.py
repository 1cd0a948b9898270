"""The secret source port, against a real OpenBao."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from configs.catalog import CredentialSource, ProviderEntry
from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import AetherError, MisconfiguredError, NotFoundError, UnavailableError
from serve_app.core.services.sealing import Sealer
from serve_app.core.stores.secrets.base import SecretSource
from serve_app.core.stores.secrets.vault import VaultSecrets
from serve_app.router.keyring import Keyring
from tests.openbao import OpenBao, running_openbao
from tests.seaweed import free_port


@pytest.fixture(scope="module")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with running_openbao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
async def source(openbao: OpenBao) -> AsyncIterator[SecretSource]:
    made = VaultSecrets(openbao.address, openbao.token("1h"))
    yield made
    await made.close()


async def test_a_field_of_a_secret_can_be_read(openbao: OpenBao, source: SecretSource) -> None:
    openbao.put("keys/openai/main", {"api_key": "sk-one", "other": "x"})
    await source.check()
    assert await source.read("secret/keys/openai/main#api_key") == "sk-one"
    openbao.put("keys/openai/main", {"api_key": "sk-two"})
    assert await source.read("secret/keys/openai/main#api_key") == "sk-two"


async def test_what_is_not_there_is_told_so(openbao: OpenBao, source: SecretSource) -> None:
    openbao.put("keys/one", {"a": "b"})
    openbao.put("keys/gone", {"a": "b"})
    openbao.ask("DELETE", "secret/data/keys/gone")
    for place in ("secret/keys/none#a", "secret/keys/one#b", "secret/keys/gone#a"):
        with pytest.raises(NotFoundError):
            await source.read(place)


@pytest.mark.parametrize("place", ["secret/others/x#a", "nowhere/keys/x#a", "keys", "secret/../sys/x#a", "a/b/#c"])
async def test_what_we_may_not_read_is_the_operators_mistake(source: SecretSource, place: str) -> None:
    with pytest.raises(MisconfiguredError):
        await source.read(place)


async def test_a_wrong_token_is_the_operators_mistake(openbao: OpenBao) -> None:
    wrong = VaultSecrets(openbao.address, "wrong")
    with pytest.raises(MisconfiguredError) as caught:
        await wrong.start()
    assert "AETHER_VAULT_" in caught.value.message
    await wrong.close()


async def test_a_vault_out_of_reach_can_be_tried_again() -> None:
    away = VaultSecrets(f"http://127.0.0.1:{free_port()}", "token")
    with pytest.raises(UnavailableError) as caught:
        await away.check()
    assert caught.value.retryable
    await away.close()


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="AETHER_VAULT_CA_FILE"):
        VaultSecrets("https://localhost", "t", ca_file=tmp_path / "none.pem")


async def test_a_token_is_renewed_before_it_ends(openbao: OpenBao) -> None:
    openbao.put("keys/one", {"a": "b"})
    short = VaultSecrets(openbao.address, openbao.token("3s"))
    await short.start()
    await asyncio.sleep(4.5)
    assert await short.read("secret/keys/one#a") == "b"
    await short.close()


async def test_a_keyring_takes_its_keys_from_the_vault_and_follows_a_rotation(openbao: OpenBao) -> None:
    openbao.put("keys/main", {"key": "sk-old"})
    provider = ProviderEntry(
        id="vendor",
        dialects=("openai-chat",),
        base_url="https://api.example.org/v1",
        credentials=(
            CredentialSource(vault="secret/keys/main#key"),
            CredentialSource(vault="secret/keys/later#key"),
            CredentialSource(env="VENDOR_KEY"),
        ),
    )
    vault = VaultSecrets(openbao.address, openbao.token("1h"))
    keyring = Keyring({"VENDOR_KEY": SecretStr("sk-env")}, vault, Sealer([b"m" * 32]), refresh_s=0.1)
    await keyring.start([provider])

    def found() -> dict[str, str]:
        keys = keyring.credentials(provider, OrgId("org_1"), [])
        return {key.id: key.secret.get_secret_value() for key in keys if key.secret}

    try:
        assert found() == {"vault:secret/keys/main#key": "sk-old", "env:VENDOR_KEY": "sk-env"}
        before = keyring.version
        openbao.put("keys/later", {"key": "sk-later"})
        openbao.put("keys/main", {"key": "sk-new"})
        async with asyncio.timeout(10):
            while len(found()) < 3 or found()["vault:secret/keys/main#key"] != "sk-new":
                await asyncio.sleep(0.05)
        assert keyring.version > before
        openbao.ask("DELETE", "secret/data/keys/main")
        await asyncio.sleep(0.3)
        assert found()["vault:secret/keys/main#key"] == "sk-new", "what cannot be read now was good a moment ago"
    finally:
        await keyring.close()
        await vault.close()


async def test_nothing_secret_is_in_an_error(openbao: OpenBao) -> None:
    token = openbao.token("1h")
    source = VaultSecrets(openbao.address, token)
    with pytest.raises(AetherError) as caught:
        await source.read("secret/others/x#a")
    assert token not in repr(caught.value)
    assert token not in repr(caught.value.__cause__)
    await source.close()
