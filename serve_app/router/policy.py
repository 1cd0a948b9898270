"""Which model answers a request, which ones would instead, and why."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from serve_app.core.domain.spending import NANOS_PER_DOLLAR
from serve_app.core.errors import (
    AetherError,
    ContextLengthError,
    InvalidRequestError,
    UnavailableError,
    UnknownModelError,
)
from serve_app.router.loads import Loads
from serve_app.router.needs import Needs
from serve_app.router.ranking import estimated_cost, rank
from serve_app.router.view import NO_KEY, Candidate, Reason, View

AUTO = "auto"
NAMED = "named"
"""The strategy of a route to a model that was asked for by name."""
Failure = Literal["error", "context_length", "content_policy"]
FAILURES: tuple[Failure, ...] = ("error", "context_length", "content_policy")
_HEADER_CHARS = 300
_DOUBT = 2
"""A named model is asked although the estimate is over its context, up to this many times: its provider counts
exactly, and says so."""
_TOO_SMALL = "context too small"
_TOO_SHORT = "answers too short"
_COOLING = "cooling down"


@dataclass(frozen=True, slots=True)
class Route:
    """`candidates[0]` is called first. `scores` (model id → 0…1) only where the strategy gives some."""

    asked: str
    alias: str | None
    strategy: str
    """`named` for a model, else the alias's."""
    needs: Needs
    candidates: tuple[Candidate, ...]
    reasons: tuple[Reason, ...]
    """Who was taken, and who was passed over; the other candidates were only ranked behind."""
    scores: Mapping[str, float]
    view: View
    cooling: Mapping[str, float]

    @property
    def first(self) -> Candidate:
        return self.candidates[0]

    @property
    def fallbacks(self) -> dict[Failure, tuple[Candidate, ...]]:
        """The first candidate's chains: models that fit and can be used."""
        return {failure: self._chain(failure) for failure in FAILURES}

    @property
    def stand_ins(self) -> tuple[Candidate, ...]:
        """Everybody in these chains."""
        named = self.first.model.fallbacks
        if not (named.error or named.context_length or named.content_policy):
            return ()
        return tuple(candidate for failure in FAILURES for candidate in self._chain(failure))

    def after(self, failure: Failure, tried: Collection[str]) -> Candidate | None:
        """Who answers instead; `tried` holds the `key` of every candidate called until now.

        The chain of the first candidate comes first. Of an alias's others, a longer context must be one, and another
        provider's policy another provider's.
        """
        for candidate in self._chain(failure):
            if candidate.key not in tried:
                return candidate
        called = [candidate for candidate in self.candidates if candidate.key in tried]
        longest = max((candidate.model.context_tokens for candidate in called), default=0)
        providers = {candidate.provider.id for candidate in called}
        for candidate in self.candidates:
            if candidate.key in tried:
                continue
            if failure == "context_length" and candidate.model.context_tokens <= longest:
                continue
            if failure == "content_policy" and candidate.provider.id in providers:
                continue
            return candidate
        return None

    def _chain(self, failure: Failure) -> tuple[Candidate, ...]:
        names = getattr(self.first.model.fallbacks, failure)
        return tuple(
            candidate
            for candidate in map(self.view.candidates.get, names)
            if candidate
            and candidate.credentials
            and not _misfit(candidate, self.needs, doubt=1)
            and not _rest_s(candidate, self.cooling)
        )


def route(
    view: View,
    name: str,
    needs: Needs,
    loads: Loads,
    session_key: str | None = None,
    cooling: Mapping[str, float] | None = None,
) -> Route:
    """`cooling`: seconds left, as in `Reservation`. A model cools down when all its keys do.

    Raises:
        UnknownModelError: no model or alias has this name, or no key is there to call it with; near names are told.
        InvalidRequestError: no candidate fits; which need excluded whom is told.
        ContextLengthError: the same, and the request's length is all that stands in the way.
        UnavailableError: all that fit cool down (`retry_after_s` in the details).
    """
    cooling = cooling or {}
    if name not in view.aliases:
        wanted = view.default if name == AUTO else name
        if wanted not in view.aliases:
            return _named(view, name, wanted, needs, cooling)
        return _aliased(view, name, wanted, needs, loads, session_key, cooling)
    return _aliased(view, name, name, needs, loads, session_key, cooling)


def _named(view: View, asked: str, name: str, needs: Needs, cooling: Mapping[str, float]) -> Route:
    candidate = view.candidates.get(name)
    if candidate is None:
        raise _unknown(view, name)
    passed = _why_not(candidate, needs, cooling, doubt=_DOUBT)
    if passed is None:
        reason = Reason(name, True, "asked for by name")
        return Route(asked, None, NAMED, needs, (candidate,), (reason,), {}, view, cooling)
    reason = Reason(name, False, passed)
    chain: Failure | None = None
    if passed.startswith(_TOO_SMALL):
        chain = "context_length"
    elif passed.startswith(_COOLING) or not candidate.credentials:
        chain = "error"
    if chain is not None:
        others = Route(asked, None, NAMED, needs, (candidate,), (), {}, view, cooling).fallbacks[chain]
        if others:
            taken = Reason(others[0].model.id, True, f"stands in for {name}")
            return Route(asked, None, NAMED, needs, others, (taken, reason), {}, view, cooling)
    raise _refusal(name, [reason], {name: candidate}, cooling)


def _aliased(
    view: View,
    asked: str,
    name: str,
    needs: Needs,
    loads: Loads,
    session_key: str | None,
    cooling: Mapping[str, float],
) -> Route:
    alias = view.aliases[name]
    if alias.needs:
        needs = _with(needs, alias.needs)
    pool = view.pool(name)
    fitting: list[Candidate] = []
    reasons: list[Reason] = []
    for candidate in pool.usable:
        passed = _why_not(candidate, needs, cooling, doubt=1)
        if passed is None:
            fitting.append(candidate)
        elif alias.models or candidate.model.kind == needs.kind:
            reasons.append(Reason(candidate.model.id, False, passed))
    if not fitting:
        by_id = {candidate.model.id: candidate for candidate in pool.usable}
        raise _refusal(name, [*reasons, *pool.without], by_id, cooling)
    ranked, scores, why = rank(fitting, alias, needs, loads, session_key)
    told = (Reason(ranked[0].model.id, True, why), *reasons, *pool.without)
    return Route(asked, name, alias.strategy, needs, tuple(ranked), told, scores, view, cooling)


def _with(needs: Needs, more: Iterable[str]) -> Needs:
    flags = {name: True for name in more if name in {"tools", "json_schema", "reasoning"}}
    modalities = needs.modalities.union(name for name in more if name in {"image", "document", "audio"})
    return replace(needs, modalities=modalities, **flags)  # type: ignore[arg-type]  # names of bool fields


def _why_not(candidate: Candidate, needs: Needs, cooling: Mapping[str, float], *, doubt: int) -> str | None:
    if not candidate.credentials:
        return NO_KEY
    misfit = _misfit(candidate, needs, doubt)
    if misfit is None and cooling and (rest_s := _rest_s(candidate, cooling)):
        return f"{_COOLING} {rest_s:.0f} s"
    return misfit


def _misfit(candidate: Candidate, needs: Needs, doubt: int) -> str | None:
    """Why this model cannot answer. `doubt` is how many times too long the input may be estimated."""
    model = candidate.model
    if model.kind != needs.kind:
        return f"is for {model.kind}"
    if not needs.modalities <= candidate.modalities:
        return "no " + ", ".join(sorted(needs.modalities - candidate.modalities))
    if needs.tools and not model.tools:
        return "no tools"
    if needs.json_schema and not model.json_schema:
        return "no json_schema"
    if needs.reasoning and not model.reasoning:
        return "no reasoning"
    room = needs.longest_tokens + (needs.output_tokens if doubt == 1 else 0)
    if room > model.context_tokens * doubt:
        return f"{_TOO_SMALL} ({model.context_tokens} < {room})"
    if doubt == 1 and needs.output_tokens > model.max_output_tokens:
        return f"{_TOO_SHORT} ({model.max_output_tokens} < {needs.output_tokens})"
    return None


def _rest_s(candidate: Candidate, cooling: Mapping[str, float]) -> float:
    """Seconds until the first of its keys is back; 0 when one is ready."""
    resting = candidate.resting(cooling)
    return min(resting.values()) if resting and len(resting) == len(candidate.credentials) else 0.0


def _unknown(view: View, name: str) -> UnknownModelError:
    names = [*view.aliases, *(candidate.model.id for candidate in view.usable())]
    near = difflib.get_close_matches(name[:100], names, n=3, cutoff=0.5) or names[:5]
    return UnknownModelError(
        f"The model '{name[:100]}' does not exist. Near it: {', '.join(near)}.", param="model", near=near
    )


def _refusal(
    name: str, reasons: Sequence[Reason], candidates: Mapping[str, Candidate], cooling: Mapping[str, float]
) -> AetherError:
    """What to say when nobody can answer, by the nearest of the obstacles: rest, length, another need, no key."""
    texts = [reason.text for reason in reasons]
    listed = "; ".join(f"{reason.model}: {reason.text}" for reason in reasons[:8])
    more = f"; and {len(reasons) - 8} more" if len(reasons) > 8 else ""
    resting = [_rest_s(candidates[reason.model], cooling) for reason in reasons if reason.text.startswith(_COOLING)]
    if resting:
        return UnavailableError(
            f"Whoever could answer for '{name}' is resting after failures. ({listed}{more})",
            retry_after_s=min(resting), param="model",
        )  # fmt: skip
    misfits = [text for text in texts if text != NO_KEY]
    if not misfits:
        return UnknownModelError(
            f"The model '{name}' cannot be used here: no key of its provider is set. ({listed}{more})", param="model"
        )
    kind = ContextLengthError if any(text.startswith(_TOO_SMALL) for text in misfits) else InvalidRequestError
    return kind(f"The model '{name}' cannot answer this request. ({listed}{more})", param="model")


def header(route: Route, answered: Candidate | None = None, failed: Sequence[tuple[str, str]] = ()) -> str:
    """The value of `x-aether-route`: one line of ASCII, at most 300 characters.

    `answered` is who did in the end, when it was not the first; `failed` are those that were called before it, as
    (model id, why). Of an alias's models those without a key are only counted: `explain` names them.
    """
    candidate = answered or route.first
    parts = [candidate.model.id, f"provider={candidate.provider.id}"]
    if route.alias or route.asked != candidate.model.id:
        parts.append(f"alias={route.alias}" if route.alias else f"asked={route.asked}")
    parts.append(f"strategy={route.strategy}")
    if candidate.model.id in route.scores:
        parts.append(f"score={route.scores[candidate.model.id]:.2f}")
    head = "; ".join(parts)
    notes = [f"{model}({why})" for model, why in failed]
    passed = [reason for reason in route.reasons if not reason.is_taken]
    named = [reason for reason in passed if route.alias is None or reason.text != NO_KEY]
    notes += [f"{reason.model}({reason.text})" for reason in named]
    tail = f"; {len(passed) - len(named)} without a key" if len(named) < len(passed) else ""
    return _ascii(head + _as_many_as_fit(notes, "; passed-over=", _HEADER_CHARS - len(head) - len(tail)) + tail)


def _as_many_as_fit(notes: Sequence[str], lead: str, room: int) -> str:
    text = ""
    for index, note in enumerate(notes):
        longer = f"{text}, {note}" if text else lead + note
        left = len(notes) - index - 1
        if len(longer) + (len(f", +{left}") if left else 0) > room:
            more = f", +{left + 1}" if text else f"{lead}+{left + 1}"
            return text + more if len(text + more) <= room else text
        text = longer
    return text


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()[:_HEADER_CHARS]


def explain(route: Route) -> dict[str, Any]:
    """The body of `POST /v1/route/explain`."""
    return {
        "object": "route",
        "asked": route.asked,
        "alias": route.alias,
        "strategy": route.strategy,
        "needs": {
            "kind": route.needs.kind,
            "modalities": sorted(route.needs.modalities),
            "tools": route.needs.tools,
            "json_schema": route.needs.json_schema,
            "reasoning": route.needs.reasoning,
            "input_tokens": route.needs.input_tokens,
            "output_tokens": route.needs.output_tokens or None,
        },
        "model": route.first.model.id,
        "candidates": [
            {
                "model": candidate.model.id,
                "provider": candidate.provider.id,
                "score": route.scores.get(candidate.model.id),
                "estimated_cost_usd": estimated_cost(candidate, route.needs) / NANOS_PER_DOLLAR,
            }
            for candidate in route.candidates
        ],
        "fallbacks": {failure: [c.model.id for c in chain] for failure, chain in route.fallbacks.items()},
        "reasons": [
            {"model": reason.model, "taken": reason.is_taken, "why": reason.text}
            for reason in (*route.reasons, *(Reason(c.model.id, False, "ranked behind") for c in route.candidates[1:]))
        ],
    }
