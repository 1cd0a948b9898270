"""What organisations set for the gateway, in a real PostgreSQL; and the schema itself."""

import base64

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from serve_app.core.db.engine import Database, owner_engine
from serve_app.core.db.migrate import alembic_config, migrate
from serve_app.core.db.repositories.gateway import EntryKind, SqlGatewayRepository
from serve_app.core.db.tables import METADATA
from serve_app.core.domain.ids import BudgetId, ProviderKeyId, UserId, new_budget_id, new_group_id, new_provider_key_id
from serve_app.core.domain.spending import Limit, Scope
from serve_app.core.errors import ConflictError, NotFoundError
from tests.conftest import Server, Tenant

_EMPTY = {
    "limits": [],
    "budgets": [],
    "groups": [],
    "models": [],
    "aliases": [],
    "providers": [],
    "keys": [],
    "policy": {"cache_ttl_s": None, "log_mode": "off"},
}
_ENTRY_KINDS: tuple[EntryKind, ...] = ("model", "alias", "provider")


@pytest.fixture
def gateway(database: Database) -> SqlGatewayRepository:
    return SqlGatewayRepository(database)


async def test_a_policy_has_all_that_was_set_and_nothing_of_others(
    gateway: SqlGatewayRepository, tenant: Tenant, other_tenant: Tenant
) -> None:
    org, user = tenant.caller.org_id, tenant.caller.user_id
    assert await gateway.policy(org) == _EMPTY
    limit = Limit(Scope("user", user), requests=60, concurrency=4)
    await gateway.set_limit(org, Limit(limit.scope, tokens=1))
    await gateway.set_limit(org, limit)
    budget = await gateway.add_budget(org, Scope("organisation", org), 5, "month")
    await gateway.set_amount(org, BudgetId(budget.id), 7)
    group = await gateway.add_group(org, "readers")
    await gateway.set_members(org, group.id, [user, user])
    for kind in _ENTRY_KINDS:
        await gateway.put_entry(org, kind, {"id": "mine", "kind": "old"})
        await gateway.put_entry(org, kind, {"id": "mine", "kind": kind})
    key, gone = new_provider_key_id(), new_provider_key_id()
    sealed = bytes(range(256))
    for one in (key, gone):
        await gateway.add_provider_key(org, one, "openai", "main", sealed, "ab12")
    await gateway.disable_provider_key(org, gone)
    await gateway.set_policy(org, cache_ttl_s=60, log_mode="metadata")
    scope = {"scope_kind": "organisation", "scope_id": org}
    assert await gateway.policy(org) == {
        "limits": [{"scope_kind": "user", "scope_id": user, "requests": 60, "tokens": None, "concurrency": 4}],
        "budgets": [{"id": budget.id, **scope, "amount": 7, "period": "month"}],
        "groups": [{"id": group.id, "name": "readers", "members": [user]}],
        **{f"{kind}s": [{"id": "mine", "kind": kind}] for kind in ("model", "provider")},
        "aliases": [{"id": "mine", "kind": "alias"}],
        "keys": [
            {
                "id": key,
                "provider": "openai",
                "name": "main",
                "fingerprint": "ab12",
                "sealed": base64.b64encode(sealed).decode(),
            }
        ],
        "policy": {"cache_ttl_s": 60, "log_mode": "metadata"},
    }
    assert await gateway.limits(org) == [limit]
    assert [one.amount for one in await gateway.budgets(org)] == [7]
    assert [(one.name, one.members) for one in await gateway.groups(org)] == [("readers", (user,))]
    assert await gateway.entries(org, "model") == [{"id": "mine", "kind": "model"}]
    assert {one.id: one.disabled_at is None for one in await gateway.provider_keys(org)} == {key: True, gone: False}
    other = other_tenant.caller.org_id
    assert await gateway.policy(other) == _EMPTY
    assert not [*await gateway.limits(other), *await gateway.budgets(other), *await gateway.groups(other)]
    with pytest.raises(NotFoundError):
        await gateway.delete_budget(other, BudgetId(budget.id))
    with pytest.raises(NotFoundError):
        await gateway.set_members(other, group.id, [])
    with pytest.raises(NotFoundError):
        await gateway.disable_provider_key(other, key)


async def test_what_was_set_can_be_taken_back(gateway: SqlGatewayRepository, tenant: Tenant) -> None:
    org, user = tenant.caller.org_id, tenant.caller.user_id
    await gateway.set_limit(org, Limit(Scope("user", user), requests=1))
    await gateway.delete_limit(org, Scope("user", user))
    budget = await gateway.add_budget(org, Scope("user", user), 1, "day")
    await gateway.delete_budget(org, BudgetId(budget.id))
    group = await gateway.add_group(org, "g")
    await gateway.set_members(org, group.id, [user])
    await gateway.delete_group(org, group.id)
    await gateway.put_entry(org, "alias", {"id": "a"})
    await gateway.delete_entry(org, "alias", "a")
    assert await gateway.policy(org) == _EMPTY


async def test_what_is_not_there_and_what_is_there_already(
    gateway: SqlGatewayRepository, tenant: Tenant, other_tenant: Tenant
) -> None:
    org = tenant.caller.org_id
    group = await gateway.add_group(org, "g")
    with pytest.raises(ConflictError):
        await gateway.add_group(org, "g")
    for stranger in (other_tenant.caller.user_id, UserId("usr_none")):
        with pytest.raises(NotFoundError):
            await gateway.set_members(org, group.id, [stranger])
    with pytest.raises(NotFoundError):
        await gateway.set_members(org, new_group_id(), [])
    with pytest.raises(NotFoundError):
        await gateway.set_amount(org, new_budget_id(), 1)
    with pytest.raises(NotFoundError):
        await gateway.delete_entry(org, "model", "none")
    with pytest.raises(NotFoundError):
        await gateway.disable_provider_key(org, ProviderKeyId("pky_none"))
    assert await gateway.forget_expired_responses() == 0


async def test_the_schema_is_that_of_the_tables(postgres: Server) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))

    engine = owner_engine(postgres.url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_migrations_go_back_and_forth(postgres: Server) -> None:
    def back(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        command.upgrade(config, "head")

    engine = owner_engine(postgres.url)
    async with engine.begin() as connection:
        await connection.run_sync(back)
    await engine.dispose()
    assert await migrate(postgres.url)
