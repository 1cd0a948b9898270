"""What a provider's 429 stands against: one model, unless it says that it is the whole account."""

from typing import Any

import orjson
import pytest

from serve_app.core.errors import RateLimitedError
from serve_app.router.providers.refusals import raise_for


def google(*quotas: str) -> dict[str, Any]:
    violations = [{"quotaMetric": "requests", "quotaId": quota} for quota in quotas]
    failure = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations}
    words = "You exceeded your current quota, please check your plan and billing details."
    return {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": words, "details": [failure, {"retryDelay": "9s"}]}


@pytest.mark.parametrize(
    ("error", "is_account_wide"),
    [
        (
            {"type": "rate_limit_error", "message": "This would exceed your organization's limit (model: claude)."},
            False,
        ),
        ({"type": "tokens", "code": "rate_limit_exceeded", "message": "Limit for gpt in organization org-1"}, False),
        ({"type": "insufficient_quota", "code": "insufficient_quota", "message": "Check your plan."}, True),
        ({"type": "exceeded_current_quota_error", "message": "Suspended."}, True),
        ({"message": "Rate limit of all models together."}, True),
        ({"message": "An account-wide limit."}, True),
        (google("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), False),
        (google("GenerateRequestsPerMinutePerProject"), True),
        (google("GenerateRequestsPerMinutePerProject", "TokensPerMinutePerProjectPerModel"), False),
        (
            {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [None, {"violations": [1]}, {"violations": 2}]},
            False,
        ),
        ({"type": ["odd"], "code": {"very": "odd"}}, False),
        ("slow down", False),
        (None, False),
    ],
)
def test_a_limit_is_of_a_model_unless_it_is_said_to_be_the_accounts(error: Any, is_account_wide: bool) -> None:
    with pytest.raises(RateLimitedError) as caught:
        raise_for(429, {"retry-after": "7"}, orjson.dumps({"error": error}), None)
    assert caught.value.details["is_account_wide"] is is_account_wide
    assert caught.value.details["retry_after_s"] == 7.0
