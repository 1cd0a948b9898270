"""The API's application in the test's own process, over real servers."""

import secrets
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert

from actors.sandbox.front import Sandboxes
from configs.catalog import Catalog
from configs.sandboxes import load_profiles
from serve_app.api.app import build_app
from serve_app.api.deps import Services
from serve_app.core.clock import SystemClock
from serve_app.core.db.engine import Database, owner_engine
from serve_app.core.db.repositories.callers import SqlCallerRepository
from serve_app.core.db.repositories.connectors import SqlConnectorRepository
from serve_app.core.db.repositories.creations import SqlCreationRepository
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.db.repositories.keys import SqlKeyRepository
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.db.repositories.owners import OwnerRepository
from serve_app.core.db.repositories.request_log import SqlRequestLogRepository
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.db.tables.callers import memberships, users
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import new_user_id
from serve_app.core.services.blobs import BlobService
from serve_app.core.services.callers import Authenticator, TicketSigner, make_key
from serve_app.core.services.sealing import Sealer
from serve_app.core.services.session_log import SessionLog
from serve_app.core.stores.live.redis import RedisLiveEvents
from serve_app.core.stores.objects.disk import DiskObjectStore
from serve_app.core.telemetry import NullMetrics
from tests.conftest import Server, Tenant
from tests.routers import SECRET, catalog_of, model, provider
from tests.sandboxes import LocalPools, front_over

MAX_BODY = 64 * 1024
BASE_URL = "http://localhost:8000"


class RecordingHosts:
    """Where wake-ups go when no host runs."""

    def __init__(self) -> None:
        self.woken: list[str] = []

    async def wake(self, session_id: str, parent: dict[str, str]) -> None:
        self.woken.append(session_id)


def services_of(
    database: Database,
    live: RedisLiveEvents,
    folder: Path,
    catalog: Catalog | None = None,
    sandboxes: Sandboxes | None = None,
    sandbox_rows: SqlSandboxRepository | None = None,
) -> Services:
    """`catalog` by default: the model `small` at the provider `vendor`. `sandboxes` by default: no node runs any."""
    clock = SystemClock()
    tickets = TicketSigner(b"x" * 32, clock)
    keys = SqlKeyRepository(database)
    sessions = SqlSessionRepository(database)
    catalog = catalog or catalog_of(
        [provider("vendor", "https://vendor.example/v1", "openai-chat")], [model("small", "vendor")]
    )
    sealer = Sealer([SECRET.encode()])
    rows = sandbox_rows or SqlSandboxRepository(database, quota=32)
    front = sandboxes or front_over(rows, LocalPools({}), load_profiles())
    return Services(
        database=database, live=live, objects=DiskObjectStore(folder), callers=SqlCallerRepository(database), keys=keys,
        sessions=sessions, creations=SqlCreationRepository(database), gateway=SqlGatewayRepository(database),
        ledger=SqlLedgerRepository(database), request_log=SqlRequestLogRepository(database),
        log=SessionLog(sessions, live, NullMetrics(), recheck_s=0.3), blobs=BlobService(DiskObjectStore(folder)),
        authenticator=Authenticator(keys, tickets, clock), tickets=tickets, sealer=sealer,
        clock=clock, hosts=RecordingHosts(), sandboxes=front, sandbox_rows=rows,
        connectors=SqlConnectorRepository(database, sealer), default_model="small", models=frozenset({"small"}), catalog=catalog,
        base_url=BASE_URL, preview_domain="localhost", preview_link_ttl_s=60, max_body_bytes=MAX_BODY,
    )  # fmt: skip


def client_of(services: Services, key: str | None = None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(build_app(services, NullMetrics()))
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers)


async def add_member(postgres: Server, tenant: Tenant) -> Tenant:
    """Another user of the same organisation, who does not own it."""
    member = Caller(org_id=tenant.caller.org_id, user_id=new_user_id(), role="member")
    engine = owner_engine(postgres.url)
    async with engine.begin() as connection:
        await connection.execute(insert(users).values(id=member.user_id, email=f"{secrets.token_hex(6)}@example.org"))
        await connection.execute(
            insert(memberships).values(org_id=member.org_id, user_id=member.user_id, role=member.role)
        )
    await engine.dispose()
    key = make_key()
    await OwnerRepository(postgres.url).add_key(member, "test", key)
    return Tenant(member, key.text)


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an answer that must be this problem, and tell nothing of our insides."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert "sqlalchemy" not in response.text
    return body
