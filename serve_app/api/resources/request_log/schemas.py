"""The request log, as the API shows it."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from serve_app.core.domain.ids import UserId


class LoggedRequestOut(BaseModel):
    """`id` is also that of the call's ledger entry; `request` and `answer` only where all was to be logged."""

    model_config = ConfigDict(extra="ignore")
    id: str
    user_id: UserId
    at: datetime
    model: str
    provider: str
    dialect: str
    status: int
    duration_ms: int
    overhead_ms: float
    request: Any
    answer: Any


class RequestLogOut(BaseModel):
    items: list[LoggedRequestOut]
    next_cursor: str | None
