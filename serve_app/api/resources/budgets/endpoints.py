"""`/api/v1/budgets`."""

from fastapi import APIRouter, status

from serve_app.api.deps import Cursor, Limit, OwnerDep, ServicesDep
from serve_app.api.resources.budgets import service
from serve_app.api.resources.budgets.schemas import BudgetChangeIn, BudgetIn, BudgetOut, BudgetsOut

router = APIRouter(prefix="/budgets", tags=["budgets"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def add_budget(body: BudgetIn, owner: OwnerDep, services: ServicesDep) -> BudgetOut:
    """Bind what a scope may spend. A scope with several budgets is bound by each of them."""
    return await service.add(services, owner, body)


@router.get("")
async def list_budgets(owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None) -> BudgetsOut:
    """Oldest first."""
    found = await services.gateway.budgets(owner.org_id, limit, service.budget_id_of(cursor) if cursor else "")
    return BudgetsOut(
        items=await service.with_spent(services, owner, found),
        next_cursor=found[-1].id if len(found) == limit else None,
    )


@router.patch("/{budget_id}")
async def change_budget(budget_id: str, body: BudgetChangeIn, owner: OwnerDep, services: ServicesDep) -> BudgetOut:
    """Another amount for the same scope and period; what was spent stays spent."""
    return await service.change(services, owner, budget_id, body.amount)


@router.delete("/{budget_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_budget(budget_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    await services.gateway.delete_budget(owner.org_id, service.budget_id_of(budget_id))
