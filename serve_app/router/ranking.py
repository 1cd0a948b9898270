"""The order of the models that fit a request, by an alias's strategy."""

import hashlib
from collections.abc import Callable, Sequence

from configs.catalog import Alias
from serve_app.core.domain.spending import NANOS_PER_DOLLAR
from serve_app.router.loads import Loads
from serve_app.router.needs import Needs
from serve_app.router.view import Candidate

_USUAL_ANSWER_TOKENS = 500
"""What is reckoned with when the caller sets no limit, or one far above what is usual."""
_HALF_PRICE = 2.0
"""Dollars per million tokens at which the cost score is one half; free is 1."""
_GUESSED_SLOWEST_S = 3.0

Ranked = tuple[list[Candidate], dict[str, float], str]
"""In order; the scores where there are some; why the first is first."""


def rank(candidates: Sequence[Candidate], alias: Alias, needs: Needs, loads: Loads, session_key: str | None) -> Ranked:
    """The same inputs give the same order in every replica; equals stay as the catalogue has them."""
    if alias.strategy == "sticky" and session_key:
        order = sorted(candidates, key=lambda candidate: _rendezvous(session_key, candidate.key), reverse=True)
        return order, {}, "keeps the session's prompt cache warm"
    if alias.strategy in {"weighted", "sticky"}:
        scores = {candidate.model.id: _score(candidate, alias, needs, loads) for candidate in candidates}
        return sorted(candidates, key=lambda candidate: -scores[candidate.model.id]), scores, "best score"
    key, why = _ORDERS[alias.strategy]
    return sorted(candidates, key=lambda candidate: key(candidate, needs, loads)), {}, why


def estimated_cost(candidate: Candidate, needs: Needs) -> int:
    """Nano-dollars for this request, with an answer of the usual length."""
    return _cost_of(candidate, needs, _answer_tokens(candidate, needs))


def _cost_of(candidate: Candidate, needs: Needs, answer_tokens: int) -> int:
    # What `Price.cost` does, without making a `Usage` for each candidate of each request.
    price = candidate.price
    return -(-(needs.input_tokens * price.input + answer_tokens * price.output) // 1000)


def _answer_tokens(candidate: Candidate, needs: Needs) -> int:
    wanted = needs.output_tokens or _USUAL_ANSWER_TOKENS
    return min(wanted, _USUAL_ANSWER_TOKENS, candidate.model.max_output_tokens)


def _score(candidate: Candidate, alias: Alias, needs: Needs, loads: Loads) -> float:
    """Between 0 and 1: quality, cost and speed by the alias's weights, times the share of calls that go well."""
    model = candidate.model
    answer_tokens = _answer_tokens(candidate, needs)
    tokens = max(needs.input_tokens + answer_tokens, 1)
    dollars_per_million = _cost_of(candidate, needs, answer_tokens) / tokens * 1e6 / NANOS_PER_DOLLAR
    cost = 1.0 / (1.0 + dollars_per_million / _HALF_PRICE)
    latency_s = loads.latency_s(candidate.key)
    speed = model.speed if latency_s is None else (model.speed + 1.0 / (1.0 + latency_s)) / 2
    weight = alias.quality + alias.cost + alias.speed or 1.0
    merit = (alias.quality * model.quality + alias.cost * cost + alias.speed * speed) / weight
    return merit * (1.0 - loads.failure_share(candidate.key))


def _rendezvous(session_key: str, key: str) -> bytes:
    """Highest random weight (Thaler and Ravishankar, 1998): when a model comes or goes, only its sessions move."""
    return hashlib.blake2b(f"{session_key}\0{key}".encode(), digest_size=8).digest()


def _latency(candidate: Candidate, _: Needs, loads: Loads) -> tuple[float, float]:
    """A model nobody has heard of lately is asked once, and only once, to learn how quick it is."""
    measured = loads.latency_s(candidate.key)
    if measured is None:
        measured = (1.0 - candidate.model.speed) * _GUESSED_SLOWEST_S if loads.in_flight(candidate.key) else 0.0
    return measured, -candidate.model.speed


def _calls(candidate: Candidate, _: Needs, loads: Loads) -> tuple[float, float]:
    return loads.in_flight(candidate.key), -candidate.model.quality


def _cost(candidate: Candidate, needs: Needs, _: Loads) -> tuple[float, float]:
    return estimated_cost(candidate, needs), -candidate.model.quality


_ORDERS: dict[str, tuple[Callable[[Candidate, Needs, Loads], tuple[float, float]], str]] = {
    "least_busy": (_calls, "fewest calls under way"),
    "lowest_latency": (_latency, "quickest to begin"),
    "lowest_cost": (_cost, "cheapest for this request"),
    "ordered": (lambda *_: (0.0, 0.0), "listed first"),
}
