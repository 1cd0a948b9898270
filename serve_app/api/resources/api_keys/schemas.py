"""API keys, as the API takes and shows them."""

from pydantic import BaseModel, ConfigDict, Field

from serve_app.api.deps import Text
from serve_app.core.domain.keys import KeyRecord


class KeyIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Text = Field(min_length=1, max_length=100, description="what the key is for")


class KeyMadeOut(BaseModel):
    """`key` is shown here and never again."""

    record: KeyRecord
    key: str


class KeysOut(BaseModel):
    items: list[KeyRecord]
