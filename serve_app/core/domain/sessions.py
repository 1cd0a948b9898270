"""Sessions: a conversation between a user and an agent."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from serve_app.core.domain.events import SessionStatus
from serve_app.core.domain.ids import OrgId, SessionId, UserId


class Session(BaseModel):
    """A session as it is stored. `last_seq` is the `seq` of its newest durable event."""

    model_config = ConfigDict(frozen=True)
    id: SessionId
    org_id: OrgId
    user_id: UserId
    title: str
    model: str
    status: SessionStatus
    last_seq: int
    created_at: datetime
    updated_at: datetime


class Lease(BaseModel):
    """The right to append what the agent does in one session, until a higher fencing token is handed out."""

    model_config = ConfigDict(frozen=True)
    session: Session
    fence: int
