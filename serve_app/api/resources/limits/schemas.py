"""Limits, as the API takes and shows them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.core.domain.spending import Limit

MAX_PER_MINUTE = 10**12
LimitedKind = Literal["organisation", "group", "user", "key", "credential"]
Number = Annotated[int, Field(ge=1, le=MAX_PER_MINUTE)]


class LimitIn(BaseModel):
    """What is left out does not bind; one of them must be there."""

    model_config = ConfigDict(extra="forbid")
    requests_per_minute: Number | None = None
    tokens_per_minute: Number | None = None
    concurrency: Number | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not (self.requests_per_minute or self.tokens_per_minute or self.concurrency):
            raise ValueError("name requests_per_minute, tokens_per_minute or concurrency")
        return self


class LimitOut(BaseModel):
    scope_kind: LimitedKind
    scope_id: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None

    @classmethod
    def of(cls, limit: Limit) -> Self:
        return cls.model_validate(
            {
                "scope_kind": limit.scope.kind,
                "scope_id": limit.scope.id,
                "requests_per_minute": limit.requests,
                "tokens_per_minute": limit.tokens,
                "concurrency": limit.concurrency,
            }
        )


class LimitsOut(BaseModel):
    items: list[LimitOut]
    next_cursor: str | None
