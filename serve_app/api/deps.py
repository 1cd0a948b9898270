"""What endpoints ask for: the services of this process, and who is calling."""

from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Header, Query
from pydantic import AfterValidator
from starlette.requests import HTTPConnection

from actors.sandbox.front import Sandboxes
from configs.catalog import Catalog
from serve_app.core.clock import Clock
from serve_app.core.db.engine import Database
from serve_app.core.db.repositories.callers import SqlCallerRepository
from serve_app.core.db.repositories.connectors import SqlConnectorRepository
from serve_app.core.db.repositories.creations import SqlCreationRepository
from serve_app.core.db.repositories.gateway import SqlGatewayRepository
from serve_app.core.db.repositories.keys import SqlKeyRepository
from serve_app.core.db.repositories.ledger import SqlLedgerRepository
from serve_app.core.db.repositories.request_log import SqlRequestLogRepository
from serve_app.core.db.repositories.sandboxes import SqlSandboxRepository
from serve_app.core.db.repositories.sessions import SqlSessionRepository
from serve_app.core.domain.callers import Caller
from serve_app.core.domain.ids import is_id
from serve_app.core.errors import ForbiddenError, InvalidRequestError, NotFoundError
from serve_app.core.services.blobs import BlobService
from serve_app.core.services.callers import Authenticator, TicketSigner
from serve_app.core.services.sealing import Sealer
from serve_app.core.services.session_log import SessionLog
from serve_app.core.stores.live.base import LiveEvents
from serve_app.core.stores.objects.base import ObjectStore

_MAX_KEY_CHARS = 200


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
    sandboxes: Sandboxes
    sandbox_rows: SqlSandboxRepository
    connectors: SqlConnectorRepository
    default_model: str
    models: frozenset[str]
    catalog: Catalog
    base_url: str
    preview_domain: str
    preview_link_ttl_s: int
    max_body_bytes: int
    max_upload_bytes: int = 4 * 1024**3
    """Of a file or an archive on its way into a sandbox, which is never held in memory."""


def services(connection: HTTPConnection) -> Services:
    found: Services = connection.app.state.services
    return found


CALLER_KEY = "aether.caller"
"""Where the edge leaves the caller in the ASGI scope. No route below /api/v1 is reached without one."""


CREDENTIAL_KEY = "aether.credential"
"""Where it leaves what the caller showed, for what lasts longer than a key may be good."""


def caller(connection: HTTPConnection) -> Caller:
    found: Caller = connection.scope[CALLER_KEY]
    return found


def token(connection: HTTPConnection) -> str:
    found: str = connection.scope[CREDENTIAL_KEY]
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


def checked_key(key: str | None) -> str | None:
    """An idempotency key that can be stored. Raises `InvalidRequestError`."""
    if key is not None and (not key or len(key) > _MAX_KEY_CHARS or not key.isprintable()):
        raise InvalidRequestError(f"Idempotency-Key: 1 to {_MAX_KEY_CHARS} printable characters.")
    return key


def storable(text: str) -> str:
    """PostgreSQL's text holds every character but this one."""
    if "\x00" in text:
        raise ValueError("must not contain a NUL character")
    return text


Text = Annotated[str, AfterValidator(storable)]
ServicesDep = Annotated[Services, Depends(services)]
CallerDep = Annotated[Caller, Depends(caller)]
TokenDep = Annotated[str, Depends(token)]
OwnerDep = Annotated[Caller, Depends(owner)]
IdempotencyKey = Annotated[str | None, Header(description="repeat a request safely: the same key has one effect")]
Limit = Annotated[int, Query(ge=1, le=200, description="how many at most")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before")]
