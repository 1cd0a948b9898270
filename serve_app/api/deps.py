"""What endpoints ask for: the services of this process, and who is calling."""

from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Query, Request
from pydantic import AfterValidator

from configs.catalog import Catalog
from serve_app.core.clock import Clock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.callers import SqlCallerRepository
from serve_app.core.db.repositories.creations import SqlCreationRepository
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.db.repositories.keys import SqlKeyRepository
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.db.repositories.request_log import SqlRequestLogRepository
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import is_id
from serve_app.core.errors import ForbiddenError, NotFoundError
from serve_app.core.services.blobs import BlobService
from serve_app.core.services.callers import Authenticator, TicketSigner
from serve_app.core.services.sealing import Sealer
from serve_app.core.services.session_log import SessionLog
from serve_app.core.stores.live.base import LiveEvents
from serve_app.core.stores.objects.base import ObjectStore


class Hosts(Protocol):
    """Tells agent hosts that a message waits."""

    async def wake(self, session_id: str, parent: dict[str, str]) -> None: ...


@dataclass(frozen=True)
class Services:
    """Built once a replica, by its shell."""

    database: Database
    live: LiveEvents
    objects: ObjectStore
    callers: SqlCallerRepository
    keys: SqlKeyRepository
    sessions: SqlSessionRepository
    creations: SqlCreationRepository
    gateway: SqlGatewayRepository
    ledger: SqlLedgerRepository
    request_log: SqlRequestLogRepository
    log: SessionLog
    blobs: BlobService
    authenticator: Authenticator
    tickets: TicketSigner
    sealer: Sealer
    clock: Clock
    hosts: Hosts
    default_model: str
    models: frozenset[str]
    catalog: Catalog
    base_url: str
    preview_domain: str
    preview_link_ttl_s: int
    max_body_bytes: int


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


CALLER_KEY = "aether.caller"
"""Where the edge leaves the caller in the ASGI scope. No route below /api/v1 is reached without one."""


def caller(request: Request) -> Caller:
    found: Caller = request.scope[CALLER_KEY]
    return found


def owner(caller: Annotated[Caller, Depends(caller)]) -> Caller:
    """The caller, who may change what the whole organisation works with."""
    if caller.role != "owner":
        raise ForbiddenError("Only an owner of the organisation may do this.")
    return caller


def checked_id(text: str, prefix: str) -> str:
    """Raises `NotFoundError` for what cannot be an id of this kind; whether it exists the database tells."""
    if not is_id(text, prefix):
        raise NotFoundError("There is no such thing in this organisation.")
    return text


def storable(text: str) -> str:
    """PostgreSQL's text holds every character but this one."""
    if "\x00" in text:
        raise ValueError("must not contain a NUL character")
    return text


Text = Annotated[str, AfterValidator(storable)]
ServicesDep = Annotated[Services, Depends(services)]
CallerDep = Annotated[Caller, Depends(caller)]
OwnerDep = Annotated[Caller, Depends(owner)]
Limit = Annotated[int, Query(ge=1, le=200, description="how many at most")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before")]
