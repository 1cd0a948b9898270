"""Budgets, as the API takes and shows them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from serve_app.api.deps import Text
from serve_app.core.domain.money import nanos_of
from serve_app.core.domain.spending import Period


def _is_money(text: str) -> str:
    nanos_of(text)
    return text


Dollars = Annotated[str, Field(max_length=20, examples=["12.50"]), AfterValidator(_is_money)]
"""US dollars as a decimal string: a number would be rounded on its way."""
BudgetedKind = Literal["organisation", "group", "user", "key"]


class BudgetIn(BaseModel):
    """`period` is a day or a month of UTC; `total` never starts anew."""

    model_config = ConfigDict(extra="forbid")
    scope_kind: BudgetedKind
    scope_id: Text = Field(max_length=100)
    amount: Dollars
    period: Period


class BudgetChangeIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amount: Dollars


class BudgetOut(BaseModel):
    """`spent` is what the ledger has for the current period: calls that still run are not in it."""

    id: str
    scope_kind: BudgetedKind
    scope_id: str
    amount: str
    period: Period
    spent: str


class BudgetsOut(BaseModel):
    items: list[BudgetOut]
    next_cursor: str | None
