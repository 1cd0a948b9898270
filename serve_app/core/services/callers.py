"""Who is asking: API keys, and the tickets agent hosts carry when they act for a user."""

import base64
import hashlib
import hmac
import secrets
from typing import Protocol

from serve_app.core.clock import Clock
from serve_app.core.domain.callers import Caller, Role
from serve_app.core.domain.ids import OrgId, UserId
from serve_app.core.domain.keys import NewKey, StoredKey
from serve_app.core.errors import UnauthenticatedError

_KEY_SCHEME = "aek"
_TICKET_SCHEME = "aet"
MODELS_TICKET = "models"
"""The purpose of the ticket with which an agent host calls `/v1` for a user."""
_TICKET_BODY_CHARS = 9 + 1 + 26 + 26
_ROLES: dict[str, Role] = {"o": "owner", "m": "member"}
_CACHE_S = 1.0
_CACHE_ENTRIES = 10_000


class KeyRepository(Protocol):
    """Looks keys up across organisations: the organisation is what the key tells us."""

    async def find_key(self, prefix: str) -> StoredKey | None: ...


def make_key() -> NewKey:
    """256 bits of randomness, so a plain SHA-256 of the secret is safe to store."""
    prefix = secrets.token_hex(4)
    secret = secrets.token_urlsafe(32)
    return NewKey(f"{_KEY_SCHEME}_{prefix}_{secret}", prefix, _digest(secret))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class TicketSigner:
    """Short-lived, signed proof of who somebody acts for, good for one purpose.

    Form: `aet_<expiry, 9 hex digits><role, 1 letter><organisation, 26><user, 26><HMAC-SHA256, 24>`: short, because
    preview links carry one. The purpose is signed and not written: a ticket tells nothing about what it opens.
    """

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def issue(self, caller: Caller, purpose: str, ttl_s: float) -> str:
        expires = int(self._clock.now().timestamp() + ttl_s)
        body = f"{expires:09x}{caller.role[0]}{caller.org_id[4:]}{caller.user_id[4:]}"
        return f"{_TICKET_SCHEME}_{body}{self._mac(body, purpose)}"

    def read(self, ticket: str, purpose: str) -> Caller:
        """Raises `UnauthenticatedError` for a ticket that is forged, expired or for another purpose."""
        text = ticket.removeprefix(_TICKET_SCHEME + "_")
        body, mac = text[:_TICKET_BODY_CHARS], text[_TICKET_BODY_CHARS:]
        if not hmac.compare_digest(mac.encode(), self._mac(body, purpose).encode()):
            raise UnauthenticatedError("This ticket is not valid here.")
        if int(body[:9], 16) < self._clock.now().timestamp():
            raise UnauthenticatedError("This ticket has expired.")
        org_id, user_id = OrgId("org_" + body[10:36]), UserId("usr_" + body[36:])
        return Caller(org_id=org_id, user_id=user_id, role=_ROLES[body[9]])

    def _mac(self, body: str, purpose: str) -> str:
        digest = hmac.digest(self._secret, f"{purpose}\n{body}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest[:18]).decode()


class Authenticator:
    """Turns a bearer token into a caller. A good key is remembered for a second, so a revoked one dies within it."""

    def __init__(self, keys: KeyRepository, tickets: TicketSigner, clock: Clock) -> None:
        self._keys = keys
        self._tickets = tickets
        self._clock = clock
        self._known: dict[bytes, tuple[float, Caller]] = {}

    async def authenticate(self, token: str, ticket_purpose: str | None = None) -> Caller:
        """`ticket_purpose` names the tickets this edge takes beside API keys.

        Raises:
            UnauthenticatedError: the key is unknown, wrong or revoked; which of these is not told.
        """
        if ticket_purpose and token.startswith(_TICKET_SCHEME + "_"):
            return self._tickets.read(token, ticket_purpose)
        scheme, _, rest = token.partition("_")
        prefix, _, secret = rest.partition("_")
        if scheme != _KEY_SCHEME or not prefix.isalnum() or not secret or len(token) > 200:
            raise _bad_key()
        cache_key = _digest(token)
        now = self._clock.monotonic()
        known = self._known.get(cache_key)
        if known and known[0] > now:
            return known[1]
        stored = await self._keys.find_key(prefix)
        if stored is None or stored.revoked_at or not hmac.compare_digest(stored.secret_digest, _digest(secret)):
            self._known.pop(cache_key, None)
            raise _bad_key()
        if len(self._known) >= _CACHE_ENTRIES:
            self._known.clear()
        self._known[cache_key] = (now + _CACHE_S, stored.caller)
        return stored.caller


def _bad_key() -> UnauthenticatedError:
    return UnauthenticatedError("This API key is not valid. Check it, or make a new one.")
