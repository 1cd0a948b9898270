"""Budgets with what was spent of them."""

from collections.abc import Sequence

from serve_app.api.deps import Services, checked_id
from serve_app.api.resources.budgets.schemas import BudgetIn, BudgetOut
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import BudgetId
from serve_app.core.domain.money import dollars_of, nanos_of
from serve_app.core.domain.spending import Budget, Scope, period_start


def budget_id_of(text: str) -> BudgetId:
    return BudgetId(checked_id(text, "bud"))


async def add(services: Services, caller: Caller, given: BudgetIn) -> BudgetOut:
    scope = Scope(given.scope_kind, given.scope_id)
    await services.gateway.must_exist(caller.org_id, scope)
    budget = await services.gateway.add_budget(caller.org_id, scope, nanos_of(given.amount), given.period)
    return (await with_spent(services, caller, [budget]))[0]


async def change(services: Services, caller: Caller, budget_id: str, amount: str) -> BudgetOut:
    budget = await services.gateway.set_amount(caller.org_id, budget_id_of(budget_id), nanos_of(amount))
    return (await with_spent(services, caller, [budget]))[0]


async def with_spent(services: Services, caller: Caller, budgets: Sequence[Budget]) -> list[BudgetOut]:
    now = services.clock.now()
    asked = [(budget.scope, period_start(budget.period, now)) for budget in budgets]
    spent = await services.ledger.spent_each(caller.org_id, asked)
    return [_out(budget, nanos) for budget, nanos in zip(budgets, spent, strict=True)]


def _out(budget: Budget, spent: int) -> BudgetOut:
    return BudgetOut.model_validate(
        {
            "id": budget.id,
            "scope_kind": budget.scope.kind,
            "scope_id": budget.scope.id,
            "amount": dollars_of(budget.amount),
            "period": budget.period,
            "spent": dollars_of(spent),
        }
    )
