"""The order an alias's strategy gives, from equal inputs always the same."""

from typing import Any

import pytest

from serve_app.router.loads import Loads
from serve_app.router.needs import Needs
from serve_app.router.policy import Route, route
from tests.unit.router.catalogs import model, view

MODELS = [
    model("good", quality=1.0, speed=0.1, price={"input": 10, "output": 10}),
    model("quick", "second", quality=0.3, speed=1.0, price={"input": 4, "output": 4}),
    model("thrifty", "third", quality=0.4, speed=0.4, price={"input": 0.1, "output": 0.1}),
]
NEEDS = Needs(input_tokens=1000, longest_tokens=1000)


def choose(loads: Loads | None = None, session_key: str | None = None, **alias: Any) -> Route:
    return route(view(MODELS, aliases=[{"id": "auto", **alias}]), "auto", NEEDS, loads or Loads(), session_key)


def ids(found: Route) -> list[str]:
    return [candidate.model.id for candidate in found.candidates]


@pytest.mark.parametrize(
    ("weights", "first"),
    [
        ({"quality": 1, "cost": 0, "speed": 0}, "good"),
        ({"quality": 0, "cost": 1, "speed": 0}, "thrifty"),
        ({"quality": 0, "cost": 0, "speed": 1}, "quick"),
        ({"quality": 0, "cost": 0, "speed": 0}, "good"),
    ],
)
def test_weights_decide(weights: dict[str, Any], first: str) -> None:
    found = choose(**weights)
    assert ids(found)[0] == first
    assert ids(found) == ids(choose(**weights))
    assert all(0 <= score <= 1 for score in found.scores.values())


def test_health_always_counts() -> None:
    loads = Loads()
    for _ in range(20):
        loads.began("good")
        loads.ended("good", failed=True)
    assert ids(choose(loads, quality=1, cost=0, speed=0))[-1] == "good"


def test_the_cheapest_for_this_request() -> None:
    assert ids(choose(strategy="lowest_cost")) == ["thrifty", "quick", "good"]


def test_the_least_busy() -> None:
    loads = Loads()
    loads.began("good")
    loads.began("good")
    loads.began("thrifty")
    assert ids(choose(loads, strategy="least_busy")) == ["quick", "thrifty", "good"]


def test_the_quickest_as_measured_and_each_is_tried_once_to_learn_it() -> None:
    loads = Loads()
    for key, seconds in (("good", 0.2), ("quick", 0.9)):
        loads.began(key)
        loads.first_byte(key, seconds)
    assert ids(choose(loads, strategy="lowest_latency"))[0] == "thrifty"
    loads.began("thrifty")
    assert ids(choose(loads, strategy="lowest_latency"))[0] == "good", "one call is under way, which will tell"
    loads.first_byte("thrifty", 0.1)
    assert ids(choose(loads, strategy="lowest_latency")) == ["thrifty", "good", "quick"]


def test_a_session_stays_and_sessions_spread() -> None:
    firsts = [ids(choose(None, f"session {n}", strategy="sticky"))[0] for n in range(300)]
    again = [ids(choose(None, f"session {n}", strategy="sticky"))[0] for n in range(300)]
    assert firsts == again
    assert all(firsts.count(model["id"]) > 60 for model in MODELS)


def test_when_a_model_rests_only_its_own_sessions_move_and_they_come_back() -> None:
    what = view(MODELS, aliases=[{"id": "auto", "strategy": "sticky"}])

    def firsts(cooling: dict[str, float]) -> list[str]:
        found = [route(what, "auto", NEEDS, Loads(), f"session {n}", cooling) for n in range(200)]
        return [one.first.model.id for one in found]

    before = firsts({})
    during = firsts({"env:second": 5})
    assert all(was in {is_, "quick"} for was, is_ in zip(before, during, strict=True))
    assert "quick" not in during
    assert firsts({}) == before


def test_sticky_without_a_session_goes_by_score() -> None:
    assert choose(strategy="sticky").scores


def test_as_listed() -> None:
    found = choose(strategy="ordered", models=["thrifty", "good"])
    assert ids(found) == ["thrifty", "good"]
