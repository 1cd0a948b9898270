"""Groups, as the API takes and shows them."""

from pydantic import BaseModel, ConfigDict, Field

from serve_app.api.deps import Text
from serve_app.core.domain.ids import GroupId, UserId

MAX_MEMBERS = 1000


class GroupIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Text = Field(min_length=1, max_length=100)


class MembersIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    user_ids: list[Text] = Field(max_length=MAX_MEMBERS)


class GroupOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: GroupId
    name: str
    members: list[UserId]


class GroupsOut(BaseModel):
    items: list[GroupOut]
    next_cursor: str | None
