"""What stands over a caller's use of the platform: limits, budgets and groups of an organisation, by whom they bind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.core.domain.ids import KeyId, OrgId, UserId
from serve_app.core.domain.spending import Budget, Limit, Scope

_MOST_REMEMBERED = 1_000


@dataclass(frozen=True)
class Binding:
    """The limits, budgets and groups of one caller."""

    limits: tuple[Limit, ...]
    budgets: tuple[Budget, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Bindings:
    """Of one organisation, as they were when they were read."""

    org_id: OrgId
    limits: Mapping[Scope, Limit]
    budgets: Mapping[Scope, Sequence[Budget]]
    groups: Mapping[str, tuple[str, ...]]
    """By user."""

    _found: dict[tuple[str, str | None], Binding] = field(default_factory=dict, init=False, repr=False)

    def of(self, user_id: UserId, key_id: KeyId | None) -> Binding:
        """Found once for each user and key, as bindings do not live long."""
        name = user_id, key_id
        found = self._found.get(name)
        if found is None:
            scopes = self._scopes(user_id, key_id)
            if len(self._found) >= _MOST_REMEMBERED:
                self._found.clear()
            found = self._found[name] = Binding(
                tuple(self.limits[scope] for scope in scopes if scope in self.limits),
                tuple(budget for scope in scopes for budget in self.budgets.get(scope, ())),
                self.groups.get(user_id, ()),
            )
        return found

    def _scopes(self, user_id: UserId, key_id: KeyId | None) -> list[Scope]:
        """Everything that what this user does with this key counts against."""
        scopes = [Scope("organisation", self.org_id), Scope("user", user_id)]
        scopes += [Scope("group", group) for group in self.groups.get(user_id, ())]
        if key_id:
            scopes.append(Scope("key", key_id))
        return scopes


def read_bindings(org_id: OrgId, raw: Mapping[str, Any], default_limit: Limit | None = None) -> Bindings:
    """From what `SqlGatewayRepository.policy` returns. `default_limit` is the organisation's where it has set none."""
    organisation = Scope("organisation", org_id)
    limits: dict[Scope, Limit] = {}
    if default_limit is not None:
        limits[organisation] = Limit(
            organisation, default_limit.requests, default_limit.tokens, default_limit.concurrency
        )
    for limit in raw["limits"]:
        scope = Scope(limit["scope_kind"], limit["scope_id"])
        limits[scope] = Limit(scope, limit["requests"], limit["tokens"], limit["concurrency"])
    groups: dict[str, tuple[str, ...]] = {}
    for group in raw["groups"]:
        for user in group["members"]:
            groups[user] = (*groups.get(user, ()), group["id"])
    budgets: dict[Scope, list[Budget]] = {}
    for budget in raw["budgets"]:
        scope = Scope(budget["scope_kind"], budget["scope_id"])
        budgets.setdefault(scope, []).append(Budget(budget["id"], scope, budget["amount"], budget["period"]))
    return Bindings(org_id, limits, budgets, groups)
