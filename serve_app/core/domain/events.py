"""The events of a session: what is durable, what is only live, and the one envelope both travel in."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from serve_app.core.domain.ids import SessionId


class EventType(StrEnum):
    """Durable types are rows with a `seq`. Live types have none and are superseded by a durable one."""

    SESSION_CREATED = "session.created"
    MESSAGE_USER = "message.user"
    MESSAGE_ASSISTANT = "message.assistant"
    CREATION_VERSION = "creation.version"
    TURN_COMPLETED = "turn.completed"
    TURN_FAILED = "turn.failed"
    MESSAGE_DELTA = "message.delta"
    GAP = "gap"


TURN_ENDS = frozenset({EventType.TURN_COMPLETED, EventType.TURN_FAILED})


class Event(BaseModel):
    """One event of one session. `seq` counts from 1 without gaps; None marks a live event."""

    model_config = ConfigDict(frozen=True)
    session_id: SessionId
    seq: int | None
    type: EventType
    at: datetime
    data: dict[str, Any]


SessionStatus = Literal["idle", "pending", "running"]
"""`pending`: a message waits for a host. `running`: a host holds the lease."""
