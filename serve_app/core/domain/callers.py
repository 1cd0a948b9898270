"""Who is asking. From the first day no request has no caller."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from serve_app.core.domain.ids import KeyId, OrgId, UserId

Role = Literal["owner", "member"]


class Caller(BaseModel):
    """An authenticated user acting within one organisation."""

    model_config = ConfigDict(frozen=True)
    org_id: OrgId
    user_id: UserId
    role: Role
    key_id: KeyId | None = None
    """None when the platform itself acts for the user, for example an agent host calling a model."""
