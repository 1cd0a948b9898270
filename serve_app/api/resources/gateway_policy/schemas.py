"""How calls are kept, as the API takes and shows it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_MONTH_S = 30 * 24 * 3600


class GatewayPolicy(BaseModel):
    """`cache_ttl_s`: how long an answer is given again to the very same request; null: never.

    `log_mode`: `metadata` logs who asked which model when, `full` the words too, what looks like a secret taken out.
    """

    model_config = ConfigDict(extra="forbid", from_attributes=True)
    cache_ttl_s: Annotated[int, Field(ge=1, le=_MONTH_S)] | None
    log_mode: Literal["off", "metadata", "full"]
