"""`GET /v1/models`: what an organisation can use now, in the shape of the vendor whose client asks."""

from datetime import UTC, date, datetime
from typing import Any

from serve_app.core.domain.ids import OrgId
from serve_app.core.errors import UnknownModelError
from serve_app.router.policies import Policies
from serve_app.router.view import Candidate, View


class ModelList:
    """Models that have a provider with a key, and the aliases that choose between them."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def openai(self, org_id: OrgId) -> dict[str, Any]:
        view = (await self._policies.of(org_id)).view
        listed = [_openai(candidate) for candidate in view.usable()]
        return {"object": "list", "data": [*listed, *(_openai_alias(name) for name in view.aliases)]}

    async def one_openai(self, org_id: OrgId, name: str) -> dict[str, Any]:
        """Raises `UnknownModelError`."""
        view = (await self._policies.of(org_id)).view
        return _openai_alias(name) if name in view.aliases else _openai(_find(view, name))

    async def anthropic(self, org_id: OrgId) -> dict[str, Any]:
        view = (await self._policies.of(org_id)).view
        data = [_anthropic(candidate) for candidate in view.usable() if candidate.model.kind == "chat"]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return {"data": data, "has_more": False, "first_id": first, "last_id": last}

    async def one_anthropic(self, org_id: OrgId, name: str) -> dict[str, Any]:
        """Raises `UnknownModelError`."""
        return _anthropic(_find((await self._policies.of(org_id)).view, name))


def _find(view: View, name: str) -> Candidate:
    candidate = view.candidates.get(name)
    if candidate is None or not candidate.credentials:
        raise UnknownModelError(f"The model '{name[:100]}' does not exist.", param="model")
    return candidate


def _released(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


def _openai(candidate: Candidate) -> dict[str, Any]:
    model = candidate.model
    created = int(_released(model.released).timestamp())
    return {"id": model.id, "object": "model", "created": created, "owned_by": model.owner}


def _openai_alias(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "alias"}


def _anthropic(candidate: Candidate) -> dict[str, Any]:
    model = candidate.model
    created = _released(model.released).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": model.id, "display_name": model.id, "created_at": created}
