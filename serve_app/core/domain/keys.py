"""API keys: what is stored of them, and what is shown."""

from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import KeyId


@dataclass(frozen=True)
class StoredKey:
    """An API key as the database holds it: no secret, only its digest (SHA-256, 32 bytes)."""

    id: KeyId
    caller: Caller
    secret_digest: bytes
    revoked_at: datetime | None


@dataclass(frozen=True)
class NewKey:
    """A key just made. `text` is shown once and stored nowhere."""

    text: str
    prefix: str
    secret_digest: bytes


class KeyRecord(BaseModel):
    """What may be shown of a key after it was made."""

    model_config = ConfigDict(frozen=True)
    id: KeyId
    name: str
    prefix: str
    created_at: datetime
    revoked_at: datetime | None
