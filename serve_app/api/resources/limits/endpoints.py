"""`/api/v1/limits`."""

from typing import get_args

from fastapi import APIRouter, status

from serve_app.api.deps import Cursor, Limit, OwnerDep, ServicesDep
from serve_app.api.resources.limits.schemas import LimitedKind, LimitIn, LimitOut, LimitsOut
from serve_app.core.domain import spending
from serve_app.core.domain.spending import Scope
from serve_app.core.errors import NotFoundError

router = APIRouter(prefix="/limits", tags=["limits"])


@router.get("")
async def list_limits(owner: OwnerDep, services: ServicesDep, limit: Limit = 50, cursor: Cursor = None) -> LimitsOut:
    found = await services.gateway.limits(owner.org_id, limit, _scope_of(cursor) if cursor else None)
    last = found[-1].scope if len(found) == limit else None
    return LimitsOut(
        items=[LimitOut.of(one) for one in found],
        next_cursor=f"{last.kind}/{last.id}" if last else None,
    )


@router.put("/{scope_kind}/{scope_id}")
async def set_limit(
    scope_kind: LimitedKind, scope_id: str, body: LimitIn, owner: OwnerDep, services: ServicesDep
) -> LimitOut:
    """Set what a scope may call at most; it holds everywhere within seconds. Replaces the limit it had.

    An organisation's limit takes the place of the platform's default.
    """
    scope = Scope(scope_kind, scope_id)
    await services.gateway.must_exist(owner.org_id, scope)
    limit = spending.Limit(scope, body.requests_per_minute, body.tokens_per_minute, body.concurrency)
    await services.gateway.set_limit(owner.org_id, limit)
    return LimitOut.of(limit)


@router.delete("/{scope_kind}/{scope_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_limit(scope_kind: LimitedKind, scope_id: str, owner: OwnerDep, services: ServicesDep) -> None:
    """A scope that has gone since keeps no limit from being deleted."""
    await services.gateway.delete_limit(owner.org_id, _scope_of(f"{scope_kind}/{scope_id}"))


def _scope_of(text: str) -> Scope:
    kind, _, scope_id = text.partition("/")
    for known in get_args(LimitedKind):
        if kind == known and scope_id.isprintable():
            return Scope(known, scope_id)
    raise NotFoundError("There is no such limit.")
