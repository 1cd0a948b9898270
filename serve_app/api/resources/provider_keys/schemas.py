"""Provider keys, as the API takes and shows them."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from serve_app.api.deps import Text
from serve_app.core.domain.ids import ProviderKeyId


def _fit_for_a_header(key: SecretStr) -> SecretStr:
    """Also without the line end that comes along when a key is pasted."""
    text = key.get_secret_value().strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be visible ASCII characters without spaces")
    return SecretStr(text)


class ProviderKeyIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    provider: Text = Field(max_length=50, description="of the platform's catalogue, or one of your own")
    name: Text = Field(min_length=1, max_length=100, description="what the key is for")
    key: Annotated[SecretStr, Field(min_length=1, max_length=8000), AfterValidator(_fit_for_a_header)]


class ProviderKeyOut(BaseModel):
    """`fingerprint` is the beginning of the key's SHA-256: it tells keys apart, and nothing else of them."""

    model_config = ConfigDict(from_attributes=True)
    id: ProviderKeyId
    provider: str
    name: str
    fingerprint: str
    created_at: datetime
    disabled_at: datetime | None


class ProviderKeysOut(BaseModel):
    items: list[ProviderKeyOut]
    next_cursor: str | None
