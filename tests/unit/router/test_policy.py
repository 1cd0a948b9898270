"""Who answers a request for a model by name, who stands in, and what is said when nobody can."""

from typing import Any

import pytest

from serve_app.core.domain.spending import model_key
from serve_app.core.errors import ContextLengthError, InvalidRequestError, UnavailableError, UnknownModelError
from serve_app.router.loads import Loads
from serve_app.router.needs import Needs
from serve_app.router.policy import Route, explain, header, route
from serve_app.router.view import View
from tests.unit.router.catalogs import model, view

MODELS = [
    model("small", price={"input": 1, "output": 2}, fallbacks={"error": ["seer", "big"], "context_length": ["big"]}),
    model("big", "other", context_tokens=100_000, max_output_tokens=8000, tools=True, json_schema=True, quality=0.9),
    model("seer", "third", modalities=["text", "image"], reasoning=True, price={"input": 50, "output": 50}),
]


def choose(what: View, name: str, needs: Needs | None = None, **more: Any) -> Route:
    return route(what, name, needs or Needs(input_tokens=100, longest_tokens=100), Loads(), **more)


def ids(found: Route) -> list[str]:
    return [candidate.model.id for candidate in found.candidates]


def test_a_named_model_is_taken_alone_and_has_its_fallbacks_by_failure() -> None:
    found = choose(view(MODELS), "small")
    assert ids(found) == ["small"]
    assert (found.strategy, found.alias, found.asked) == ("named", None, "small")
    chains = {failure: [c.model.id for c in chain] for failure, chain in found.fallbacks.items()}
    assert chains == {"error": ["seer", "big"], "context_length": ["big"], "content_policy": []}


def test_fallbacks_come_one_after_another_and_end() -> None:
    found = choose(view(MODELS), "small")
    second = found.after("error", {"small"})
    assert second is not None
    assert second.model.id == "seer"
    third = found.after("error", {"small", "seer"})
    assert third is not None
    assert third.model.id == "big"
    assert found.after("error", {"small", "seer", "big"}) is None
    assert found.after("content_policy", {"small"}) is None


def test_a_fallback_that_does_not_fit_has_no_key_or_cools_down_is_left_out() -> None:
    needs = Needs(tools=True)
    with pytest.raises(InvalidRequestError):
        choose(view(MODELS), "small", needs)
    chain = choose(view(MODELS, without_key=["third"]), "small").fallbacks["error"]
    assert [c.model.id for c in chain] == ["big"]
    chain = choose(view(MODELS), "small", cooling={"env:third": 5.0}).fallbacks["error"]
    assert [c.model.id for c in chain] == ["big"]


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        (Needs(tools=True), "small: no tools"),
        (Needs(json_schema=True), "small: no json_schema"),
        (Needs(reasoning=True), "small: no reasoning"),
        (Needs(modalities=frozenset({"text", "image", "audio"})), "small: no audio, image"),
        (Needs(kind="embeddings"), "small: is for chat"),
    ],
)
def test_a_named_model_that_cannot_says_why(needs: Needs, why: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        choose(view(MODELS), "small", needs)
    assert why in caught.value.message
    assert not isinstance(caught.value, ContextLengthError)


def test_an_estimate_a_little_over_the_context_is_for_the_provider_to_judge() -> None:
    needs = Needs(input_tokens=9000, longest_tokens=9000, output_tokens=5000)
    assert ids(choose(view(MODELS), "small", needs)) == ["small"]


def test_far_over_the_context_its_fallback_answers() -> None:
    found = choose(view(MODELS), "small", Needs(input_tokens=20_000, longest_tokens=20_000))
    assert ids(found) == ["big"]
    assert found.reasons[1].text == "context too small (8192 < 20000)"
    with pytest.raises(ContextLengthError, match="context too small"):
        choose(view(MODELS), "seer", Needs(input_tokens=20_000, longest_tokens=20_000))


def test_a_named_model_without_key_or_at_rest_is_stood_in_for() -> None:
    assert ids(choose(view(MODELS, without_key=["vendor"]), "small")) == ["seer", "big"]
    found = choose(view(MODELS), "small", cooling={"env:vendor": 12.3})
    assert ids(found) == ["seer", "big"]
    assert found.reasons[1].text == "cooling down 12 s"


def test_a_limit_of_one_model_lets_its_keys_others_be_called() -> None:
    found = choose(view(MODELS), "small", cooling={model_key("env:vendor", "big"): 9.0})
    assert ids(found) == ["small"]
    found = choose(view(MODELS), "small", cooling={model_key("env:vendor", "small"): 9.0})
    assert ids(found) == ["seer", "big"]
    assert found.reasons[1].text == "cooling down 9 s"


def test_without_a_stand_in_it_is_told_when_to_come_back() -> None:
    with pytest.raises(UnavailableError) as caught:
        choose(view(MODELS), "big", cooling={"env:other": 7.0})
    assert caught.value.details["retry_after_s"] == 7.0
    with pytest.raises(UnknownModelError, match="no key"):
        choose(view(MODELS, without_key=["other"]), "big")


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownModelError) as caught:
        choose(view(MODELS), "smal")
    assert caught.value.details["near"][0] == "small"
    with pytest.raises(UnknownModelError) as caught:
        choose(view(MODELS), "x" * 5000)
    assert len(caught.value.message) < 300


def test_auto_is_the_default_where_no_alias_has_the_name() -> None:
    assert ids(choose(view(MODELS, aliases=()), "auto")) == ["small"]


def test_an_alias_takes_who_fits_and_tells_of_the_others() -> None:
    found = choose(view(MODELS, without_key=["third"]), "auto", Needs(input_tokens=9000, longest_tokens=9000))
    assert ids(found) == ["big"]
    told = {reason.model: reason.text for reason in found.reasons}
    assert told == {"big": "best score", "small": "context too small (8192 < 9000)", "seer": "no key"}
    assert 0 < found.scores["big"] <= 1


def test_an_alias_counts_the_answers_length_too() -> None:
    found = choose(view(MODELS), "auto", Needs(output_tokens=4000))
    assert ids(found) == ["big"]
    assert "answers too short (2048 < 4000)" in {reason.text for reason in found.reasons}


def test_an_aliases_own_needs_count() -> None:
    what = view(MODELS, aliases=[{"id": "auto"}, {"id": "vision", "needs": ["image"]}])
    assert ids(choose(what, "vision")) == ["seer"]


def test_an_alias_nobody_fits_says_who_lacks_what() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        choose(view(MODELS), "auto", Needs(modalities=frozenset({"audio"}), tools=True))
    for part in ("small: no audio", "big: no audio", "seer: no audio"):
        assert part in caught.value.message
    with pytest.raises(UnknownModelError, match="no key"):
        choose(view(MODELS, without_key=["vendor", "other", "third"]), "auto")
    with pytest.raises(UnavailableError) as away:
        choose(view(MODELS), "auto", cooling={"env:vendor": 9, "env:other": 4, "env:third": 5})
    assert away.value.details["retry_after_s"] == 4


def test_after_the_first_an_alias_tries_its_others() -> None:
    what = view(MODELS, aliases=[{"id": "auto", "strategy": "ordered"}])
    found = choose(what, "auto")
    assert ids(found) == ["small", "big", "seer"]
    longer = found.after("context_length", {"small", "big"})
    assert longer is None, "nobody left has a longer context"
    other = found.after("content_policy", {"small"})
    assert other is not None
    assert other.model.id == "big"


def test_the_header_is_one_short_line() -> None:
    found = choose(view(MODELS, without_key=["third"]), "auto")
    line = header(found)
    assert line.startswith("big; provider=other; alias=auto; strategy=weighted; score=0.")
    assert line.endswith("; 1 without a key")
    assert header(choose(view(MODELS), "small")) == "small; provider=vendor; strategy=named"
    stood_in = choose(view(MODELS), "small").after("error", {"small"})
    assert header(choose(view(MODELS), "small"), stood_in, [("small", "error")]) == (
        "seer; provider=third; asked=small; strategy=named; passed-over=small(error)"
    )


def test_the_header_counts_who_has_no_key_and_names_who_failed() -> None:
    many = [*MODELS, *(model(f"model-{n}", "nobody") for n in range(27))]
    found = choose(view(many, without_key=["nobody"]), "auto", Needs(input_tokens=9000, longest_tokens=9000))
    line = header(found, failed=[("small", "timed_out")])
    assert line.endswith("; passed-over=small(timed_out), small(context too small (8192 < 9000)), "
                         "seer(context too small (8192 < 9000)); 27 without a key")  # fmt: skip
    assert {entry["why"] for entry in explain(found)["reasons"] if entry["model"] == "model-26"} == {"no key"}
    named = header(choose(view(MODELS, without_key=["vendor"]), "small"))
    assert named.endswith("; passed-over=small(no key)"), "whom the caller asked for is told by name"


def test_the_header_stays_short_whatever_the_catalogue() -> None:
    many = [model(f"model-{n}" + "x" * 80, "vendor" if n % 2 else "other") for n in range(60)]
    many += [model("long" + "x" * 80, "third", context_tokens=100_000)]
    line = header(choose(view(many, without_key=["other"]), "auto", Needs(input_tokens=9000, longest_tokens=9000)))
    assert len(line) <= 300
    assert line.isascii()
    assert line.endswith(", +29; 30 without a key")
    assert "\n" not in line


def test_explain_tells_everything() -> None:
    found = choose(view(MODELS), "auto", Needs(input_tokens=1_000_000, longest_tokens=100, output_tokens=10))
    told = explain(found)
    assert told["model"] == ids(found)[0]
    assert told["strategy"] == "weighted"
    assert {entry["model"]: entry["estimated_cost_usd"] for entry in told["candidates"]}["small"] == pytest.approx(
        1.00002
    )
    assert {entry["model"] for entry in told["reasons"]} == {"small", "big", "seer"}
    assert told["reasons"][0]["taken"]
