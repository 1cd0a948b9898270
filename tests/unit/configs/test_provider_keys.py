"""Providers' keys come from the variables the catalogue names, and from no others."""

import pytest

from configs.catalog import load_catalog
from configs.settings import SettingsError, load_settings, provider_keys

SECRET = "a" * 40


def test_only_what_is_named_and_set_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = load_catalog()
    for provider in catalog.providers:
        for source in provider.credentials:
            monkeypatch.delenv(source.env or "", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret\n")
    monkeypatch.setenv("GROQ_API_KEY", " ")
    monkeypatch.setenv("OTHER_API_KEY", "sk-other")
    found = provider_keys(catalog)
    assert {name: value.get_secret_value() for name, value in found.items()} == {"OPENAI_API_KEY": "sk-secret"}
    assert "sk-secret" not in repr(found)


def test_the_gateways_settings_bind_nothing_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert (settings.gateway.requests_per_minute, settings.gateway.concurrency, settings.gateway.catalog) == (None,) * 3
    assert settings.gateway.max_answer_bytes == 64 * 1024 * 1024
    monkeypatch.setenv("AETHER_GATEWAY_TOKENS_PER_MINUTE", "1000")
    assert load_settings().gateway.tokens_per_minute == 1000


def test_a_bad_vault_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AETHER_VAULT_ADDRESS", "vault:8200")
    with pytest.raises(SettingsError, match="AETHER_VAULT_ADDRESS"):
        load_settings()


def test_the_key_before_still_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AETHER_SECURITY_SECRET_KEY", SECRET)
    assert load_settings().sealing_keys == [SECRET.encode()]
    monkeypatch.setenv("AETHER_SECURITY_PREVIOUS_SECRET_KEY", "b" * 40)
    assert load_settings().sealing_keys == [SECRET.encode(), b"b" * 40]
