"""What a provider's refusal means: for its key, for this request, or for the moment."""

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import orjson

from serve_app.core.errors import (
    AetherError,
    ContentFilteredError,
    ContextLengthError,
    MisconfiguredError,
    ProviderError,
    ProviderRefusedError,
    RateLimitedError,
)
from serve_app.router.dialects.canonical import Dialect

_MAX_WAIT_S = 3600.0
_CONTEXT_WORDS = (
    "context_length_exceeded",
    "prompt is too long",
    "exceeds the maximum number of tokens",
    "context window",
)
_POLICY_WORDS = ("content_policy_violation", "content_filter", "responsibleaipolicyviolation", "blocked by safety")
_ACCOUNT_CODES = frozenset(
    {
        "insufficient_quota",
        "exceeded_current_quota_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "account_deactivated",
        "access_terminated",
    }
)
_ACCOUNT_WORDS = ("account-wide", "account wide", "all models", "credit balance")
"""Naming the account or the organisation is not enough: vendors do that where they count by model as well."""
_TRANSIENT_TYPES = frozenset(
    {"overloaded_error", "api_error", "server_error", "timeout_error", "service_unavailable_error"}
)


def raise_for(status: int | None, headers: Mapping[str, str], body: bytes, dialect: Dialect | None) -> NoReturn:
    """Raise what an answer other than 200 means. `status` is None for an error event at the head of a stream.

    Raises:
        MisconfiguredError: our key is refused.
        RateLimitedError: with `retry_after_s` when the provider said; `is_account_wide` in the details says whether it
            stands against every model, for limits are by model unless told otherwise.
        ProviderError: it failed, and may not fail again.
        ProviderRefusedError: it declines this request; `body` and `dialect` in the details, for a client of that dialect.
    """
    told = _told(body)
    kind = str(told.get("type") or told.get("code") or told.get("status") or "")
    wait = _retry_after_s(headers)
    more: dict[str, Any] = {} if wait is None else {"retry_after_s": wait}
    # 403 is for a file, a model or a region as often as for a key, and a key belongs to everybody who uses it.
    if status in {401, 402} or kind in {"authentication_error", "billing_error"}:
        raise MisconfiguredError("The provider refuses the key it was called with.", provider_status=status)
    if status == 429 or kind == "rate_limit_error":
        more["is_account_wide"] = _is_account_wide(told)
        raise RateLimitedError("The provider asks for patience.", provider_status=status, **more)
    if status is not None and (status in {408, 409, 425} or status >= 500 or status < 400):
        raise ProviderError(f"The provider answered with status {status}.", provider_status=status, **more)
    if status is None and (kind in _TRANSIENT_TYPES or not kind):
        raise ProviderError("The provider failed before it began to answer.", provider_type=kind[:100], **more)
    raise refusal(status or 400, told, body, dialect)


def refusal(status: int, told: Mapping[str, Any], body: bytes, dialect: Dialect | None) -> AetherError:
    """The error for a request that a provider understood and declined."""
    words = str(told.get("message") or "The provider declined the request.")[:2000]
    searched = f"{told.get('code')} {told.get('type')} {words}".lower()
    details: dict[str, Any] = {"provider_status": status, "body": body, "dialect": dialect}
    for name in ("param", "code"):
        if isinstance(told.get(name), str):
            details[name] = told[name]
    if any(word in searched for word in _CONTEXT_WORDS):
        return ContextLengthError(words, **details)
    if any(word in searched for word in _POLICY_WORDS):
        return ContentFilteredError(words, **details)
    return ProviderRefusedError(words, **details)


def _is_account_wide(told: Mapping[str, Any]) -> bool:
    """Whether a limit that was reached is that of all models together: money, or a rate that is said to be."""
    if quotas := _quotas(told):
        # Google speaks of the plan and its billing for every kind of quota; only the names of the quotas tell.
        return not any("permodel" in quota.lower() for quota in quotas)
    if any(isinstance(name, str) and name in _ACCOUNT_CODES for name in (told.get("code"), told.get("type"))):
        return True
    words = str(told.get("message") or "").lower()
    return any(word in words for word in _ACCOUNT_WORDS)


def _quotas(told: Mapping[str, Any]) -> list[str]:
    """The names of the quotas that a Google API says are exceeded (`google.rpc.QuotaFailure`)."""
    details = told.get("details")
    found = [one.get("violations") for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    listed = [violation for violations in found if isinstance(violations, list) for violation in violations]
    return [str(violation["quotaId"]) for violation in listed if isinstance(violation, dict) and "quotaId" in violation]


def _told(body: bytes) -> Mapping[str, Any]:
    """The error object, which every vendor puts under `error`; Gemini wraps it into a list when streaming."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(value, list) and value:
        value = value[0]
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`retry-after-ms`, or `Retry-After` in seconds or as a date; at most an hour."""
    if (value := headers.get("retry-after-ms")) and (ms := _number(value)) is not None:
        return min(ms / 1000, _MAX_WAIT_S)
    value = headers.get("retry-after")
    if not value:
        return None
    seconds = _number(value)
    if seconds is None:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError):
            return None
    return min(max(seconds, 0.0), _MAX_WAIT_S)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
