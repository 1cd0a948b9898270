"""An organisation's catalogue: what it adds, and what it cannot reach by adding."""

from datetime import date

from pydantic import SecretStr

from configs.catalog import ProviderEntry, load_catalog
from serve_app.core.domain.spending import Usage
from serve_app.router.keyring import Credential
from serve_app.router.loads import Loads
from serve_app.router.needs import Needs
from serve_app.router.policy import route
from serve_app.router.view import build_view, exact_price, read_own
from tests.unit.router.catalogs import ORG, catalog, model, provider, view


def test_only_what_has_a_key_is_offered() -> None:
    found = view([model("a"), model("b", "other")], without_key=["other"])
    assert [candidate.model.id for candidate in found.usable()] == ["a"]


def test_what_an_organisation_adds_is_there_under_its_own_key() -> None:
    own = read_own([provider("mine")], [model("theirs", "mine")], [{"id": "quick", "models": ["theirs", "a"]}])
    found = view([model("a")], own=own)
    added = found.candidates["theirs"]
    assert added.key == f"{ORG}/theirs"
    assert (added.is_own, added.is_own_provider) == (True, True)
    chosen = route(found, "quick", Needs(), Loads())
    assert {candidate.model.id for candidate in chosen.candidates} == {"theirs", "a"}


def test_its_models_at_our_providers_use_its_keys_alone() -> None:
    """It sets their price itself: with our key it would spend our money unseen."""
    own = read_own([], [model("a", price={"input": 0})], [])
    added = view([model("a", price={"input": 5})], own=own).candidates["a"]
    assert [credential.id for credential in added.credentials] == ["pky_vendor"]
    assert (added.is_own, added.is_own_provider) == (True, False)


def test_it_cannot_put_itself_in_the_place_of_our_providers() -> None:
    own = read_own([provider("vendor", base_url="https://evil.example.org/v1")], [], [])
    found = view([model("a")], own=own)
    assert found.candidates["a"].provider.base_url == "https://vendor.example.org/v1"
    assert "taken" in found.bad[0]


def test_it_cannot_run_models_on_our_machines() -> None:
    added = model("x", "local", engine="llamacpp", source={"package": "p", "file": "f"})
    own = read_own([], [added], [])
    assert not own.models
    assert "operator" in own.bad[0]


def test_a_bad_entry_takes_no_other_with_it() -> None:
    own = read_own(
        [provider("mine"), provider("bad", base_url="ftp://x")],
        [model("good", "mine"), model("bad", "mine", context_tokens=-1), model("lost", "nowhere")],
        [{"id": "fine"}, {"id": "bad", "strategy": "magic"}],
    )
    found = view([model("a")], own=own)
    assert set(found.candidates) == {"a", "good"}
    assert set(found.aliases) == {"auto", "fine"}
    told = "\n".join(found.bad)
    for part in ("base_url", "context_tokens", "strategy", "no provider 'nowhere'"):
        assert part in told


def test_its_model_hides_our_alias_of_the_same_name() -> None:
    own = read_own([], [model("auto")], [])
    found = view([model("a")], own=own)
    assert route(found, "auto", Needs(), Loads()).strategy == "named"


def test_an_alias_for_all_leaves_out_what_is_deprecated() -> None:
    def credentials(entry: ProviderEntry, own_only: bool) -> tuple[Credential, ...]:
        return (Credential("env:x", entry.id, None if own_only else SecretStr("s")),)

    base = catalog(
        [model("old", deprecated="2026-05-01"), model("new")],
        [{"id": "auto"}, {"id": "both", "models": ["old", "new"]}],
    )
    found = build_view(base, ORG, read_own([], [], []), credentials, date(2026, 6, 1))
    assert [c.model.id for c in found.pool("auto").usable] == ["new"]
    assert [c.model.id for c in found.pool("both").usable] == ["old", "new"]


def test_prices_become_whole_nano_dollars() -> None:
    by_id = {entry.id: exact_price(entry.price) for entry in load_catalog().models}
    price = by_id["claude-sonnet-5-5"]
    assert price.cost(Usage(input=1_000_000)) == 2_000_000_000
    assert price.cost(Usage(input=1_000_000, cached=1_000_000)) == 100_000_000
    assert price.cost(Usage(input=1_000_000, cache_written=1_000_000)) == 2_500_000_000
    assert by_id["groq/qwen3.8-27b"].cached_input == by_id["groq/qwen3.8-27b"].input


def test_the_shipped_aliases_choose_among_what_has_keys() -> None:
    def credentials(entry: ProviderEntry, own_only: bool) -> tuple[Credential, ...]:
        return (Credential(f"env:{entry.id}", entry.id),) if entry.id in available and not own_only else ()

    available = {"local"}
    alone = build_view(load_catalog(), ORG, read_own([], [], []), credentials)
    for name in ("auto", "fast", "cheap"):
        assert route(alone, name, Needs(), Loads()).first.model.id == "smollm2-135m"
    available = {"local", "openai", "anthropic", "gemini", "groq"}
    rich = build_view(load_catalog(), ORG, read_own([], [], []), credentials)
    needs = Needs(input_tokens=2000, longest_tokens=2000)
    assert route(rich, "auto", needs, Loads()).first.model.id != "smollm2-135m"
    assert route(rich, "fast", needs, Loads()).first.model.speed >= 0.8
    assert route(rich, "reasoning", needs, Loads()).first.model.quality >= 0.9
    assert "image" in route(rich, "vision", needs, Loads()).first.model.modalities
    assert route(rich, "auto", Needs(kind="embeddings"), Loads()).first.model.kind == "embeddings"
