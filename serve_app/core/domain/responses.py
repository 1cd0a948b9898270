"""Answers that are kept, so that the next request can go on from them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serve_app.core.domain.ids import OrgId, UserId


@dataclass(frozen=True)
class StoredResponse:
    """`input` holds the items the caller sent for this turn, not those of earlier turns; `body` is the response object,
    whose `previous_response_id` names the turn before."""

    id: str
    org_id: OrgId
    user_id: UserId
    created_at: datetime
    expires_at: datetime
    input: tuple[dict[str, Any], ...]
    body: dict[str, Any]
