"""Sessions, as the API takes and shows them."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from serve_app.api.deps import Text
from serve_app.core.domain.events import SessionStatus
from serve_app.core.domain.ids import SessionId

MAX_TEXT_CHARS = 400_000


class SessionIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: Text = Field("New session", min_length=1, max_length=200)
    model: str | None = Field(None, max_length=200, description="default: the platform's own")


class SessionOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: SessionId
    title: str
    model: str
    status: SessionStatus
    last_seq: int
    created_at: datetime
    updated_at: datetime


class SessionsOut(BaseModel):
    items: list[SessionOut]
    next_cursor: str | None


class MessageIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: Text = Field(min_length=1, max_length=MAX_TEXT_CHARS)


class MessageOut(BaseModel):
    """`seq` is the message's place in the log, and the name of the turn that answers it."""

    session_id: SessionId
    seq: int
