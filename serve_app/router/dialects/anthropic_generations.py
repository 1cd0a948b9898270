"""What differs between generations of Claude: how thinking is asked for, which sampling parameters are taken.

https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking
https://platform.claude.com/docs/en/build-with-claude/effort
"""

import re
from collections.abc import Callable
from typing import Any

from serve_app.router.dialects.canonical import Dialect, Reasoning, Request

Note = Callable[[str], None]

_NAME = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?")
_OLDEST = (0, 0)
_TAKES_EFFORT = (4, 6)
_TAKES_NO_BUDGET = (4, 7)
_TAKES_NO_SAMPLING = (4, 7)
_TAKES_ONE_OF_TEMPERATURE_AND_TOP_P = (4, 1)

MIN_BUDGET = 1024
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 65536}
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}


def generation(model: str) -> tuple[int, int]:
    """The version in a model's name; (0, 0) for a name without one, which is taken for the oldest."""
    found = _NAME.search(model.lower())
    return (int(found[1]), int(found[2] or 0)) if found else _OLDEST


def thinking_of(request: Request, max_tokens: int, note: Note) -> tuple[dict[str, Any] | None, str | None]:
    """The `thinking` and the `output_config.effort` of a request."""
    wanted = request.reasoning
    if wanted is None:
        return None, None
    if wanted.is_off or wanted.effort == "none":
        return {"type": "disabled"}, wanted.effort if wanted.effort in _EFFORTS else None
    version = generation(request.model)
    if version >= _TAKES_EFFORT:
        thinking, effort = _adaptive(request, wanted, version, max_tokens, note)
    elif request.dialect is Dialect.ANTHROPIC and wanted.effort and wanted.budget_tokens is None:
        return ({"type": "adaptive"} if wanted.is_adaptive else None), wanted.effort
    else:
        thinking, effort = _manual(wanted, max_tokens, note), None
    if thinking and request.tool_choice and request.tool_choice.mode in {"required", "named"}:
        note("reasoning: Anthropic does not think when a tool is forced")
        thinking = None
    return thinking, effort


def _adaptive(
    request: Request, wanted: Reasoning, version: tuple[int, int], max_tokens: int, note: Note
) -> tuple[dict[str, Any] | None, str | None]:
    effort = _EFFORTS.get(wanted.effort) if wanted.effort else None
    if wanted.effort and effort is None:
        note(f"reasoning effort {wanted.effort!r} is unknown to Anthropic")
    if effort == "xhigh" and version < _TAKES_NO_BUDGET:
        note("reasoning effort 'xhigh' is sent as 'high', the most this model takes before 'max'")
        effort = "high"
    if wanted.budget_tokens is not None and version < _TAKES_NO_BUDGET:
        return _manual(wanted, max_tokens, note), effort
    if wanted.budget_tokens is not None:
        effort = effort or _effort_of(wanted.budget_tokens)
        note(f"a thinking budget is sent as effort {effort!r}: this model takes none")
    elif request.dialect is Dialect.ANTHROPIC and not wanted.is_adaptive:
        return None, effort
    display = {"display": "summarized"} if wanted.summary else {}
    return {"type": "adaptive", **display}, effort


def _effort_of(budget: int) -> str:
    return next(effort for effort in ("low", "medium", "high") if effort == "high" or budget <= _BUDGETS[effort])


def _manual(wanted: Reasoning, max_tokens: int, note: Note) -> dict[str, Any] | None:
    budget = wanted.budget_tokens or _BUDGETS.get(wanted.effort or "medium", _BUDGETS["medium"])
    if max_tokens <= MIN_BUDGET:
        note(f"reasoning: {max_tokens} output tokens leave no room to think")
        return None
    if budget >= max_tokens:
        # Half is left for the answer, which shares its limit with the thoughts.
        fitting = max(MIN_BUDGET, max_tokens // 2)
        if wanted.budget_tokens:
            note(f"a thinking budget of {budget} is cut to {fitting}, to fit in {max_tokens} output tokens")
        budget = fitting
    return {"type": "enabled", "budget_tokens": max(budget, MIN_BUDGET)}


def sampling_of(request: Request, is_thinking: bool, note: Note) -> dict[str, Any]:
    """`temperature`, `top_p` and `top_k`, as far as the model takes them."""
    version = generation(request.model)
    wanted = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if version >= _TAKES_NO_SAMPLING:
        for name in given:
            note(f"{name} is not taken by this model")
        return {}
    if given.get("temperature", 0) > 1:
        note(f"temperature {given['temperature']} is sent as 1, Anthropic's highest")
        given["temperature"] = 1.0
    if is_thinking:
        for name in [name for name, value in given.items() if not _fits_thinking(name, value)]:
            note(f"{name} {given.pop(name)} is not taken while the model thinks")
    if version >= _TAKES_ONE_OF_TEMPERATURE_AND_TOP_P and {"temperature", "top_p"} <= given.keys():
        note("top_p is not taken beside temperature by this model")
        del given["top_p"]
    return given


def _fits_thinking(name: str, value: float) -> bool:
    return (name == "temperature" and value == 1) or (name == "top_p" and value >= 0.95)
